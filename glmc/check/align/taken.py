"""The calls for one node, taken out of a run: what they are bound to, as it was before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.align.call_values import producer
from glmc.check.align.expectation import Expectation
from glmc.check.align.lock_step import CallDone, LockStep
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.result import AlignedValue
from glmc.check.align.run import Run, Sequences, running
from glmc.check.calls.written import calls_for
from glmc.errors import InternalError
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    InputArgument,
    WeightArgument,
)


@dataclass(frozen=True)
class Buffer:
    """A buffer of the plan, by its id."""

    id: int


@dataclass(frozen=True)
class Weight:
    """A packed weight."""

    name: str


@dataclass(frozen=True)
class StepInput:
    """A step input, as the plan has it."""

    name: str


Place = Union[Buffer, Weight, StepInput, CacheKey]
Bound = tuple[Call, Mapping[str, Any]]


@dataclass(frozen=True)
class TakenCalls:
    """``calls`` with what each is bound to, ``memory`` what was in each place before the first of
    them, ``operands`` what the node reads, as expected. ``step`` is the one that they are of, and
    ``done`` what is known of the values that they have left."""

    node: Node
    calls: tuple[Bound, ...]
    memory: Mapping[Place, Tensor]
    operands: Mapping[Node, Any]
    step: LockStep
    done: CallDone
    loaded_weights: Mapping[str, Tensor]


def taken_calls(
    rebuilt: Rebuilt,
    sequences: Sequences,
    expectation: Expectation,
    row: AlignedValue,
    load: LoadOptions | None = None,
) -> TakenCalls:
    """Run once more, up to the calls for a row of the alignment, on the first rank."""
    with running(rebuilt, sequences, expectation, load) as run:
        for step in run.steps():
            if step.place.number == row.step:
                return _taken(run, step, row)
            for _ in step.calls():
                pass
    raise InternalError("a run ends before a step of it", place=row.node)


def _taken(run: Run, step: LockStep, row: AlignedValue) -> TakenCalls:
    nodes = {node.meta["id"]: node for node in step.program.graph.nodes if "id" in node.meta}
    value, lowered = nodes[row.node], step.lowered
    last = next(
        position
        for position, outputs in lowered.outputs.items()
        if any(name == value.name for name, _ in outputs)
    )
    node, calls = producer(value), calls_for(lowered, last)
    first = lowered.plan.calls.index(calls[0])
    side = run.replays[0].forced.replays[step.place.key]
    positions = [at for at in range(first, last + 1) if lowered.plan.calls[at] in calls]
    memory: dict[Place, Tensor] = {}
    operands: dict[Node, Any] = {}

    def before(position: int) -> None:
        if position != first:
            return
        operands.update(step.operands(node))
        for at in positions:
            bound = side.arguments(step.place.padded, at)
            for name, argument in lowered.plan.calls[at].arguments.items():
                place = place_of_argument(argument)
                if isinstance(place, (Buffer, CacheKey)):
                    _keep(memory, place, bound[name])

    step.before = before
    for done in step.calls():
        if done.position == last:
            bound = [side.arguments(step.place.padded, at) for at in positions]
            made = tuple(zip((lowered.plan.calls[at] for at in positions), bound, strict=True))
            weights = run.loaded.weights
            for call, arguments in made:
                for name, argument in call.arguments.items():
                    place = place_of_argument(argument)
                    if isinstance(place, Weight):
                        memory[place] = weights[place.name].cpu()
                    elif isinstance(place, StepInput):
                        _keep(memory, place, arguments[name])
            return TakenCalls(node, made, memory, operands, step, done, weights)
    raise InternalError("a step ends before a call of it", place=row.node)


def place_of_argument(argument: Argument) -> Place | None:
    """What an argument points into; None for numbers."""
    if isinstance(argument, BufferArgument):
        return Buffer(argument.buffer)
    if isinstance(argument, WeightArgument):
        return Weight(argument.weight)
    if isinstance(argument, InputArgument):
        return StepInput(argument.input)
    if isinstance(argument, CacheArgument):
        return CacheKey(argument.cache, argument.layer)
    return None


def _keep(memory: dict[Place, Tensor], place: Place, view: Tensor) -> None:
    """The largest view of a place, copied."""
    if place not in memory or memory[place].numel() < view.numel():
        with torch.no_grad():
            memory[place] = view.detach().clone().cpu()
