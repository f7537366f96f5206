"""An estimate as lines and tables of a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from glmc.estimates.estimate import Estimate, EstimatedLine, EstimatedStep
from glmc_runtime.command.units import bytes_text, count_text, share_text
from glmc_runtime.format.cache import shown
from glmc_runtime.format.phases import DECODE

COLUMNS = ("kernels", "module", "calls", "launches", "MB", "GFLOP", "floor us", "us", "ms in all")
NOT_COUNTED = (
    "Device graphs, the driver, torch's own context and workspaces of kernels come on top of the "
    "memory and are not counted."
)


def header(estimate: Estimate) -> Iterator[str]:
    """What it takes of a card, a line for each purpose."""
    needs, device = estimate.needs, estimate.device
    third = ", from third-party numbers" if device.third_party else ""
    yield (
        f"{estimate.model}: {count_text(estimate.parameters)} parameters, {estimate.dtype}, on "
        f"{device.title}: predicted{third}"
    )
    yield f"  weights      {bytes_text(needs.weights)} a card, of {bytes_text(device.memory.value)}"
    yield f"  KV cache     {bytes_text(needs.token)} a token"
    yield f"  arena        {bytes_text(needs.arena)}; step inputs {bytes_text(needs.inputs)}"
    asked = f"{estimate.batch} x {estimate.context:,}"
    verdict = "fits" if estimate.fits else "does not fit"
    yield f"  {asked} tokens take {bytes_text(estimate.total)} of a card: {verdict}"
    yield (
        f"  room for {estimate.largest_batch:,} sequences of {estimate.context:,} tokens, or "
        f"{estimate.batch:,} of {estimate.longest_context:,}"
    )


def title(step: EstimatedStep) -> str:
    """What a step computes, and how long it takes."""
    it = step.step
    if it.phase == DECODE.name:
        what = f"decode, batch {it.sequences}, context {it.context:,}"
    else:
        what = f"{it.phase}, {it.new:,} tokens"
    bucket = "" if it.rows == it.sequences * it.new else f", in the bucket of {it.rows}"
    rate = it.sequences * it.new / step.seconds
    return (
        f"{what}{bucket}: predicted {_ms(step.seconds)} ms ({rate:,.0f} tokens/s), floor "
        f"{_ms(step.floor)} ms, {share_text(step.floor / step.seconds)} of it"
    )


def detail(step: EstimatedStep) -> str:
    """What a step moves, computes and launches."""
    host = ""
    if step.host > step.device:
        host = f"; the host's launches take longer than the device's {_ms(step.device)} ms"
    return (
        f"{step.bytes / 1e9:,.2f} GB, {step.flops / 1e12:,.3f} TFLOP, {step.kernels} launches, "
        f"{step.launches.eager} of them by the host beside {step.launches.graphs} device graphs"
        f"{host}"
    )


def rows(step: EstimatedStep) -> Iterator[tuple[str, ...]]:
    """A row for each line of a step, under :data:`COLUMNS`."""
    for each in step.lines:
        line = each.line
        yield (
            " + ".join(line.kernels),
            line.module,
            str(line.count),
            str(line.launches),
            f"{line.cost.bytes / 1e6:,.2f}",
            f"{line.cost.flops / 1e9:,.2f}",
            f"{each.floor * 1e6:,.1f}",
            f"{each.seconds * 1e6:,.1f}",
            f"{each.total * 1e3:,.3f}",
        )


def notes(estimate: Estimate) -> Iterator[str]:
    """What the numbers are and are not."""
    yield (
        "MB, GFLOP, floor and us are of one node, a prediction of the model in docs/estimate.md; "
        "experts are drawn evenly."
    )
    yield NOT_COUNTED
    kinds: dict[str, int] = {}
    for number in estimate.device.numbers().values():
        kinds[number.kind] = kinds.get(number.kind, 0) + 1
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield f"Of the numbers of {estimate.device.name}, {counted}: --json has the source of each."


def to_json(estimate: Estimate) -> dict[str, Any]:
    """All of it, with the sources of the device's numbers."""
    needs, device = estimate.needs, estimate.device
    return {
        "model": estimate.model,
        "dtype": estimate.dtype,
        "predicted": True,
        "device": {
            "name": device.name,
            "title": device.title,
            "third_party": device.third_party,
            "numbers": {name: asdict(number) for name, number in device.numbers().items()},
        },
        "memory": {
            "card_bytes": int(device.memory.value),
            "weight_bytes": needs.weights,
            "cache_bytes_per_token": needs.token,
            "arena_bytes": needs.arena,
            "input_bytes": needs.inputs,
            "batch": estimate.batch,
            "context": estimate.context,
            "total_bytes": estimate.total,
            "fits": estimate.fits,
            "largest_batch": estimate.largest_batch,
            "longest_context": estimate.longest_context,
        },
        "steps": [_step_json(step) for step in estimate.steps],
    }


def _step_json(step: EstimatedStep) -> dict[str, Any]:
    return {
        **asdict(step.step),
        "seconds": step.seconds,
        "device_seconds": step.device,
        "host_seconds": step.host,
        "floor_seconds": step.floor,
        "bytes": step.bytes,
        "flops": step.flops,
        "launches": {"kernels": step.kernels, **asdict(step.launches)},
        "lines": [_line_json(each) for each in step.lines],
    }


def _line_json(each: EstimatedLine) -> dict[str, Any]:
    line = each.line
    return {
        "op": line.op,
        "module": line.module,
        "layers": None if line.layers is None else shown(line.layers),
        "count": line.count,
        "kernels": line.kernels,
        **asdict(line.cost),
        "floor_seconds": each.floor,
        "seconds": each.seconds,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"
