"""Check that the buffers of a plan are in the arena and that no two alive at once share memory.

Sizes and offsets are linear in the step, so it is enough to look at the smallest step and at the
directions in which steps of the phase grow (:class:`glmc_runtime.format.phases.Order`).
"""

from __future__ import annotations

from heapq import heappop, heappush

from glmc_runtime.errors import PlanError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import Buffer, BufferArgument, PhasePlan
from glmc_runtime.loading.call_arguments import MOST_DIMENSIONS


def check_buffers(plan: PhasePlan) -> None:
    """Raise :class:`PlanError` for a buffer outside the arena, used outside its life, or over
    another one."""
    identifiers = [buffer.id for buffer in plan.buffers]
    if len(set(identifiers)) != len(identifiers):
        raise PlanError(f"two buffers of {plan.name} have the same id")
    ends = {buffer.id: _end(plan, buffer) for buffer in plan.buffers}
    for buffer in plan.buffers:
        _check_shape(plan, buffer)
        if min(_parts(buffer.offset)) < 0:
            raise PlanError(f"buffer '{buffer.name}' begins before the arena")
        if not _at_most(plan, ends[buffer.id], plan.arena):
            raise PlanError(
                f"buffer '{buffer.name}' of {plan.name} reaches beyond the arena",
                expected=f"end at most {plan.arena}",
                found=str(ends[buffer.id]),
                remedy="compile the model again",
            )
    _check_lives(plan)
    _check_overlap(plan, ends)


def _check_shape(plan: PhasePlan, buffer: Buffer) -> None:
    """At most eight dimensions, none of them empty, at an offset that fits the dtype."""
    place = f"{plan.name}, buffer '{buffer.name}'"
    if len(buffer.shape) > MOST_DIMENSIONS or any(extent == Extent() for extent in buffer.shape):
        raise PlanError(
            "a buffer has no shape that a tensor can have",
            place=place,
            expected=f"at most {MOST_DIMENSIONS} dimensions, each of 1 or more",
            found=f"[{', '.join(map(str, buffer.shape[:20]))}]",
        )
    itemsize, offset = dtype_of(buffer.dtype).itemsize, buffer.offset
    if any(part % itemsize for part in _parts(offset)):
        raise PlanError(
            "a buffer is not aligned to its dtype",
            place=place,
            expected=f"an offset of multiples of {itemsize}",
            found=str(offset),
        )


def _parts(extent: Extent) -> tuple[int, ...]:
    return (extent.constant, *(factor for _, factor in extent.terms))


def _end(plan: PhasePlan, buffer: Buffer) -> Extent:
    size = Extent(constant=dtype_of(buffer.dtype).itemsize)
    for extent in buffer.shape:
        size = size.times(extent)
    if not size.linear:
        raise PlanError(
            "a buffer's size is not linear in the step",
            place=f"{plan.name}, buffer '{buffer.name}'",
        )
    return buffer.offset + size


def _at_most(plan: PhasePlan, left: Extent, right: Extent) -> bool:
    """Whether ``left <= right`` in every step of the phase."""
    phase = plan.phase
    return phase.order.at_most(phase.normal(left), phase.normal(right))


def _check_lives(plan: PhasePlan) -> None:
    """Calls use a buffer only while it is alive; logits and tokens outlive the last call."""
    lives = {buffer.id: buffer for buffer in plan.buffers}
    uses = [
        (argument.buffer, position)
        for position, call in enumerate(plan.calls)
        for argument in call.arguments.values()
        if isinstance(argument, BufferArgument) and argument.buffer in lives
    ]
    outputs = [plan.output] if plan.greedy is None else [plan.output, plan.greedy]
    uses += [(identifier, len(plan.calls) - 1) for identifier in outputs if identifier in lives]
    for identifier, position in uses:
        buffer = lives[identifier]
        if not buffer.first <= position <= buffer.last:
            raise PlanError(
                f"buffer '{buffer.name}' of {plan.name} is used while it is not alive",
                expected=f"calls {buffer.first} to {buffer.last}",
                found=f"call {position}",
            )


def _check_overlap(plan: PhasePlan, ends: dict[int, Extent]) -> None:
    alive: list[tuple[int, int, Buffer]] = []  # the one that dies first is on top
    for number, buffer in enumerate(sorted(plan.buffers, key=lambda buffer: buffer.first)):
        while alive and alive[0][0] < buffer.first:
            heappop(alive)
        for _, _, other in alive:
            apart = _at_most(plan, ends[buffer.id], other.offset)
            if not apart and not _at_most(plan, ends[other.id], buffer.offset):
                raise PlanError(
                    f"buffers '{other.name}' and '{buffer.name}' of {plan.name} are alive at once "
                    "and share memory",
                    expected="memory of its own for each",
                    found=f"{other.offset} to {ends[other.id]}, {buffer.offset} to "
                    f"{ends[buffer.id]}",
                )
        heappush(alive, (buffer.last, number, buffer))
