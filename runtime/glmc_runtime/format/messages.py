"""What the ranks of a plan tell each other in a step, read from its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from glmc_runtime.errors import PlanError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import CollectiveCalls
from glmc_runtime.format.plan import Buffer, BufferArgument, Call, PhasePlan, place_of

FAMILY = "collective"


def collective_calls(plans: Iterable[PhasePlan]) -> tuple[CollectiveCalls, ...]:
    """The collectives of the plans, those with equal messages in one row; plans without any have
    none."""
    found: Counter[tuple[str, str, str, str]] = Counter()
    for plan in plans:
        for call in plan.calls:
            if call.function.partition(".")[0] == FAMILY:
                dtype, message = message_of(call, plan.buffers)
                found[plan.name, call.function, dtype, str(message)] += 1
    return tuple(CollectiveCalls(*row, calls) for row, calls in found.items())


def message_of(call: Call, buffers: tuple[Buffer, ...]) -> tuple[str, Extent]:
    """The dtype of what a rank tells, and its bytes in symbols of the phase; raises
    :class:`PlanError` where a plan that was not checked yet tells of no buffer."""
    x = call.arguments.get("x")
    if not isinstance(x, BufferArgument) or not 0 <= x.buffer < len(buffers):
        raise PlanError(
            f"{call.function} has no buffer 'x'", place=place_of(call), found=str(x)[:80]
        )
    buffer = buffers[x.buffer]
    size = Extent(constant=1)
    for extent in buffer.shape if x.shape is None else x.shape:
        size = size.times(extent)
    return buffer.dtype, size * dtype_of(buffer.dtype).itemsize
