"""Check a plan against itself and its manifest before anything is bound."""

from __future__ import annotations

from glmc_runtime.errors import PlanError
from glmc_runtime.format.dependence import Dependence
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import VOCABULARY
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    InputArgument,
    PhasePlan,
    WeightArgument,
    place_of,
)
from glmc_runtime.kernels.schema import FLOATS
from glmc_runtime.loading.check_buffers import check_buffers
from glmc_runtime.loading.check_calls import CallCheck
from glmc_runtime.loading.check_head import check_head
from glmc_runtime.replay.inputs import check_input


def check_plan(plan: PhasePlan, manifest: Manifest) -> None:
    """Raise :class:`PlanError` where a plan names what is not there or contradicts itself."""
    _check_segments(plan)
    check_buffers(plan)
    _check_inputs(plan, manifest)
    buffers = {buffer.id for buffer in plan.buffers}
    _check_output(plan, manifest)
    _check_greedy(plan)
    inputs = {spec.name for spec in plan.inputs}
    for call in plan.calls:
        place = _place(plan, call)
        unknown = set(call.writes) - set(call.arguments)
        if unknown:
            raise PlanError(f"a call writes '{min(unknown)}', which is no argument", place=place)
        for name in call.writes:
            if not isinstance(call.arguments[name], (BufferArgument, CacheArgument)):
                raise PlanError(
                    f"a call writes '{name}', which is neither a buffer nor a cache", place=place
                )
        for name, argument in call.arguments.items():
            problem = _problem(argument, buffers, inputs, manifest)
            if problem:
                raise PlanError(
                    f"argument '{name}': {problem}", place=place, remedy="compile the model again"
                )
    _check_captured(plan)
    CallCheck(plan, manifest).check()
    check_head(plan, manifest.model.hidden)


def _place(plan: PhasePlan, call: Call) -> str:
    return f"{plan.name}, {place_of(call)}"


def _problem(
    argument: Argument, buffers: set[int], inputs: set[str], manifest: Manifest
) -> str | None:
    if isinstance(argument, BufferArgument) and argument.buffer not in buffers:
        return f"there is no buffer {argument.buffer}"
    if isinstance(argument, InputArgument) and argument.input not in inputs:
        return f"the phase has no step input '{argument.input}'"
    if isinstance(argument, CacheArgument):
        name, layer = argument.cache, argument.layer
        known = manifest.cache.tensor(name, layer) is not None
        return None if known else f"there is no cache '{name}' of layer {layer}"
    if isinstance(argument, WeightArgument):
        entry = manifest.weights.get(argument.weight)
        if entry is None:
            return f"there is no weight '{argument.weight}'"
        if argument.rows is not None:
            first, last = argument.rows
            if not entry.shape or not 0 <= first <= last <= entry.shape[0]:
                return f"weight '{argument.weight}' has no rows {first} to {last}"
    return None


def _check_output(plan: PhasePlan, manifest: Manifest) -> None:
    """The output has the shape that the phase says: of logits, a float for each sequence and token
    of the vocabulary."""
    buffer = next((buffer for buffer in plan.buffers if buffer.id == plan.output), None)
    if buffer is None:
        raise PlanError(f"the {plan.name} plan gives back an unknown buffer {plan.output}")
    phase, vocabulary = plan.phase, Extent(constant=manifest.model.vocabulary)
    names = (Extent.parse(size) for size in phase.output)
    expected = [vocabulary if name == Extent.parse(VOCABULARY) else name for name in names]
    right = list(map(phase.normal, buffer.shape)) == list(map(phase.normal, expected))
    if not right or buffer.dtype not in FLOATS:
        raise PlanError(
            f"the output of {plan.name} is no logits",
            place=f"buffer '{buffer.name}'",
            expected=f"{' or '.join(FLOATS)} [{', '.join(map(str, expected))}]",
            found=f"{buffer.dtype} [{', '.join(map(str, buffer.shape))}]",
        )


def _check_greedy(plan: PhasePlan) -> None:
    """The greedy tokens are int64 [sequences], and the last call writes them."""
    if plan.greedy is None:
        return
    buffer = next((buffer for buffer in plan.buffers if buffer.id == plan.greedy), None)
    if buffer is None:
        raise PlanError(f"the {plan.name} plan has its greedy tokens in no buffer: {plan.greedy}")
    if buffer.dtype != "int64" or buffer.shape != (Extent.parse(plan.phase.output[0]),):
        raise PlanError(
            f"the greedy tokens of {plan.name} are no token ids",
            place=f"buffer '{buffer.name}'",
            expected=f"int64 [{plan.phase.output[0]}]",
            found=f"{buffer.dtype} [{', '.join(map(str, buffer.shape))}]",
        )
    last = plan.calls[-1]
    written = [last.arguments.get(name) for name in last.writes]
    if not any(isinstance(item, BufferArgument) and item.buffer == buffer.id for item in written):
        raise PlanError(
            f"the greedy tokens of {plan.name} are not what its last call writes",
            place=_place(plan, last),
            expected=f"buffer '{buffer.name}' among what it writes",
        )


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


def _check_captured(plan: PhasePlan) -> None:
    """A device graph repeats what it saw: no call in it may follow the host or the real counts.

    Asked of every plan, also where nothing is captured, so that an artifact that loads on one
    machine does on all.
    """
    dependence = Dependence(plan)
    for segment in plan.segments:
        if not segment.captured:
            continue
        for call in plan.calls[segment.first : segment.last + 1]:
            real = dependence.sees_real_counts(call)
            if call.host or real:
                raise PlanError(
                    "a captured segment holds a call that changes from step to step",
                    place=_place(plan, call),
                    expected="calls that depend on the bucket alone",
                    found="a call that follows the real counts of its bucket"
                    if real
                    else "a call that reads host memory when it is called",
                    remedy="compile again with a glmc of this runtime's version",
                )


def _check_inputs(plan: PhasePlan, manifest: Manifest) -> None:
    names = [spec.name for spec in plan.inputs]
    if len(set(names)) != len(names):
        raise PlanError(f"{plan.name} has a step input twice")
    for spec in plan.inputs:
        check_input(spec, manifest.cache.blocks_per_sequence)
