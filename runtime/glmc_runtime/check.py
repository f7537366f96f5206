"""Check a plan against itself and its manifest before anything is bound."""

from __future__ import annotations

from glmc_runtime.dtypes import dtype_of
from glmc_runtime.errors import PlanError
from glmc_runtime.manifest import Manifest
from glmc_runtime.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Extent,
    InputArgument,
    PhasePlan,
    WeightArgument,
)


def check_plan(plan: PhasePlan, manifest: Manifest) -> None:
    """Raise :class:`PlanError` where a plan names what is not there or contradicts itself."""
    _check_segments(plan)
    _check_buffers(plan)
    buffers = {buffer.id for buffer in plan.buffers}
    if plan.output not in buffers:
        raise PlanError(f"the {plan.name} plan gives back an unknown buffer {plan.output}")
    inputs = {spec.name for spec in plan.inputs}
    for call in plan.calls:
        place = f"{plan.name}, call '{call.function}', node '{call.node}'"
        unknown = set(call.writes) - set(call.arguments)
        if unknown:
            raise PlanError(f"a call writes '{min(unknown)}', which is no argument", place=place)
        for name, argument in call.arguments.items():
            problem = _problem(argument, buffers, inputs, manifest)
            if problem:
                raise PlanError(
                    f"argument '{name}': {problem}", place=place, remedy="compile the model again"
                )


def _problem(
    argument: Argument, buffers: set[int], inputs: set[str], manifest: Manifest
) -> str | None:
    if isinstance(argument, BufferArgument) and argument.buffer not in buffers:
        return f"there is no buffer {argument.buffer}"
    if isinstance(argument, InputArgument) and argument.input not in inputs:
        return f"the phase has no step input '{argument.input}'"
    if isinstance(argument, CacheArgument):
        known = argument.cache in ("key", "value")
        if not known or not 0 <= argument.layer < manifest.cache.layers:
            return f"there is no cache '{argument.cache}' of layer {argument.layer}"
    if isinstance(argument, WeightArgument):
        entry = manifest.weights.get(argument.weight)
        if entry is None:
            return f"there is no weight '{argument.weight}'"
        if argument.rows is not None:
            first, last = argument.rows
            if not entry.shape or not 0 <= first <= last <= entry.shape[0]:
                return f"weight '{argument.weight}' has no rows {first} to {last}"
    return None


def _check_segments(plan: PhasePlan) -> None:
    expected = 0
    for segment in plan.segments:
        if segment.first != expected or segment.last < segment.first:
            break
        expected = segment.last + 1
    if expected != len(plan.calls) or not plan.calls:
        raise PlanError(
            f"the segments of {plan.name} do not cover its calls one after the other",
            expected=f"calls 0 to {len(plan.calls) - 1}",
            found=str([(segment.first, segment.last) for segment in plan.segments]),
        )


def _check_buffers(plan: PhasePlan) -> None:
    """Every buffer lies inside the arena for every step (all sizes are linear and not negative)."""
    identifiers = [buffer.id for buffer in plan.buffers]
    if len(set(identifiers)) != len(identifiers):
        raise PlanError(f"two buffers of {plan.name} have the same id")
    for buffer in plan.buffers:
        size = Extent(constant=dtype_of(buffer.dtype).itemsize)
        for extent in buffer.shape:
            size = _times(size, extent, f"{plan.name}, buffer '{buffer.name}'")
        end = buffer.offset + size
        for field in ("tokens", "sequences", "constant"):
            if getattr(buffer.offset, field) < 0:
                raise PlanError(f"buffer '{buffer.name}' begins before the arena")
        # Steps have 1 <= sequences <= tokens (equal in decode): the corner and both directions.
        inside = (
            end.evaluate(1, 1) <= plan.arena.evaluate(1, 1)
            and end.tokens + end.sequences <= plan.arena.tokens + plan.arena.sequences
            and (plan.name == "decode" or end.tokens <= plan.arena.tokens)
        )
        if not inside:
            raise PlanError(
                f"buffer '{buffer.name}' of {plan.name} reaches beyond the arena",
                expected=f"end at most {plan.arena}",
                found=str(end),
                remedy="compile the model again",
            )


def _times(size: Extent, extent: Extent, place: str) -> Extent:
    if not (extent.tokens or extent.sequences):
        return size * extent.constant
    if size.tokens or size.sequences:
        raise PlanError("a buffer's size is not linear in the step", place=place)
    return extent * size.constant
