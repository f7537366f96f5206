"""The time model: seconds of a call and of a step, from bytes, operations, launches and a device.

A call takes ``launch + seconds + ((read * B)^p + (multiply * F)^p)^(1/p)``: B is the time of a
plain read of its bytes, F that of its operations in a large product, p how far the two overlap
(1: not at all, large: wholly). Calls of a step follow one another; the host runs beside them, but
for what it does between two steps.
"""

from __future__ import annotations

from glmc.errors import UsageError
from glmc.estimates.costs import Cost
from glmc.estimates.device import Device
from glmc.estimates.lines import Launches, Line


def product_rate(device: Device, dtype: str) -> float:
    """Operations a second; raises UsageError where the description has none of the dtype."""
    if dtype not in device.product:
        raise UsageError(
            f"the description of {device.name} has no rate of {dtype} products",
            expected=", ".join(device.product),
            found=dtype,
            remedy="choose another --dtype, or add product." + dtype + " to a file of your own",
        )
    return device.product[dtype].value


def call_floor(device: Device, dtype: str, cost: Cost) -> float:
    """Seconds that no kernel can do without."""
    return max(cost.bytes / device.read.value, cost.flops / product_rate(device, dtype))


def call_seconds(device: Device, dtype: str, cost: Cost, launches: int) -> float:
    """Seconds that a node of ``launches`` kernels is predicted to take."""
    calls, p = device.calls[cost.kind], device.overlap.value
    moved = calls.read.value * cost.bytes / device.read.value
    computed = calls.multiply.value * cost.flops / product_rate(device, dtype)
    both: float = (moved**p + computed**p) ** (1 / p)
    return launches * (device.launch.graph.value + calls.seconds.value) + both


def line_seconds(device: Device, dtype: str, line: Line) -> float:
    """Seconds of all nodes of a line."""
    return line.count * call_seconds(device, dtype, line.cost, len(line.kernels))


def host_seconds(device: Device, launches: Launches) -> float:
    """Seconds that the host needs to launch a step: it may be later than the device."""
    return (launches.eager + launches.graphs) * device.launch.eager.value


def between_steps(device: Device, ranks: int) -> float:
    """Seconds between two steps: the host's own, and those in which ranks are told of the next."""
    told = device.links.step if ranks > 1 else None
    return device.launch.step.value + (0.0 if told is None else told.value)
