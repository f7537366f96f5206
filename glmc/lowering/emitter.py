"""The emitter: kernel calls and the buffers, weights and step inputs that they name.

It is what a rule sees (:class:`~glmc.lowering.target.Emitter`). Which graph is lowered, and in what
order, is the business of the walk that holds it: that of an artifact's phase (``lower.py``), or of
a traced program.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import SymInt
from torch.fx import Node

from glmc.errors import InternalError, LoweringError
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.lowering.assemble import Scratch, dtype_name
from glmc.lowering.in_place import Calls
from glmc.lowering.liveness import Liveness
from glmc.lowering.target import LoweringOptions, Op, Value
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    InputArgument,
    InputSpec,
    ValueArgument,
    WeightArgument,
    parts_of,
)
from glmc_runtime.format.step_inputs import step_input

Operands = dict[str, Value | float | int | bool | str | list[int] | None]
"""The arguments of an op by the names of its schema."""
Passed = Value | Argument | float | int | bool | str | list[int] | None
"""What a rule may pass to a call."""


class Sizes(Protocol):
    """Sizes of fake tensors as extents."""

    def extent(self, size: int | SymInt) -> Extent:
        """A size as a form in the symbols of the program."""


@dataclass(frozen=True)
class Mark:
    """A point to go back to: how many calls there were, and the notes of the rules."""

    calls: int
    notes: dict[str, Value]


class CallEmitter:
    """The calls of one program. ``mutated`` names the inputs that calls may write."""

    def __init__(
        self,
        program: Program,
        options: LoweringOptions,
        sizes: Sizes,
        mutated: Iterable[str] = (),
    ) -> None:
        self.options = options
        self.notes: dict[str, Value] = {}
        self.remarks: list[str] = []
        self.buffers: list[Scratch] = []
        self.calls = Calls()
        self.inputs: dict[str, InputSpec] = {}
        self.weights: dict[str, Weight] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.liveness = Liveness(program.graph.nodes)
        self.outputs: dict[int, Value] = {}
        self._program = program
        self._sizes = sizes
        self._mutated = frozenset(mutated)
        self._current: tuple[Node, Op] | None = None
        # Of the current node: buffers that ``mutable`` let it reuse, and those written since.
        self._reused: set[int] = set()
        self._overwritten: set[int] = set()

    def enter(self, node: Node, name: str, operands: Operands | None = None) -> Op:
        """Calls are those of ``node`` from here on, the op ``name``, which has no outputs yet."""
        meta, phase = node.meta, self._program.phase
        op = Op(name, meta["id"], meta["module"], meta["layer"], operands or {}, phase)
        self._current = node, op
        self.outputs, self._reused, self._overwritten = {}, set(), set()
        return op

    def mark(self) -> Mark:
        """The point that :meth:`back_to` goes back to."""
        return Mark(len(self.calls), dict(self.notes))

    def back_to(self, mark: Mark) -> None:
        """Forget the calls since ``mark`` and the notes, whose values those would have made."""
        del self.calls[mark.calls :]
        self.notes = mark.notes

    # What rules see: the Emitter protocol.

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        self.buffers.append(Scratch(name, tuple(shape), dtype))
        return Value(name, tuple(shape), dtype, BufferArgument(len(self.buffers) - 1))

    def result(self, index: int = 0) -> Value:
        node, op = self._now()
        fakes = node.meta["val"]
        fake = fakes[index] if isinstance(fakes, (tuple, list)) else (fakes,)[index]
        name = op.node if index == 0 else f"{op.node}[{index}]"
        value = self.temporary(name, self.shape(fake), fake.dtype)
        self.outputs[index] = value
        return value

    def bind(self, index: int, value: Value) -> None:
        self.outputs[index] = value

    def mutable(self, value: Value) -> Value:
        argument = value.argument
        if isinstance(argument, BufferArgument):
            if argument.buffer in self._overwritten:
                raise InternalError(
                    f"{value.name} is asked for again after it was overwritten",
                    place=self._now()[1].node,
                    remedy="ask for every mutable operand before the first call",
                )
            taken = argument.buffer in self._reused
            taken = taken or any(_shares(value, other) for other in self.outputs.values())
            if not taken and not self._read_later(argument):
                self._reused.add(argument.buffer)
                return value
        own = isinstance(argument, InputArgument) and self._writable(argument)
        if own and not self._read_later(argument):
            return value
        copy = self.temporary(f"{value.name}.copy", value.shape, value.dtype)
        self.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    def weight(self, weight: Weight) -> Value:
        known = self.weights.get(weight.name) or self._program.weights.get(weight.name, weight)
        if known != weight:
            raise InternalError(f"two different weights are named {weight.name}")
        self.weights[weight.name] = weight
        shape = tuple(Extent(constant=size) for size in weight.shape)
        return Value(weight.name, shape, weight.dtype, WeightArgument(weight.name))

    def recipe(self, value: Value) -> Weight:
        argument = value.argument
        if not isinstance(argument, WeightArgument):
            raise LoweringError(f"{value.name} is no weight", place=self._now()[1].node)
        known = self.weights.get(argument.weight) or self._program.weights.get(argument.weight)
        if known is None:
            raise InternalError(f"weight {argument.weight} is unknown")
        return known

    def input(self, name: str) -> Value:
        row = step_input(name)
        shape = row.shape_of(self.options.blocks_per_sequence)
        return self.declared_input(name, dtype_of(row.dtype), shape)

    def stamp(self, value: Value) -> str:
        return self.calls.stamp(value)

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def call(
        self, function: str, *, writes: tuple[str, ...], host: bool = False, **arguments: Passed
    ) -> None:
        _, op = self._now()
        bound = {name: self.argument(value) for name, value in arguments.items()}
        for name in writes:
            written = bound.get(name)
            if written is None or not self._writable(written):
                raise InternalError(
                    f"{function} writes '{name}', which is no buffer", place=op.node
                )
            if self._read_later(written):
                raise InternalError(
                    f"{function} writes '{name}', which is still read later", place=op.node
                )
            if isinstance(written, BufferArgument) and written.buffer in self._reused:
                self._overwritten.add(written.buffer)
        self.append(function, bound, writes, host)

    # What the walk sees besides.

    def append(
        self,
        function: str,
        arguments: dict[str, Argument],
        writes: tuple[str, ...],
        host: bool = False,
    ) -> None:
        """A call of the current node; its writes are not checked."""
        _, op = self._now()
        self.calls.append(
            Call(function, arguments, writes, host, op.node, op.name, op.layer, op.module)
        )

    def declared_input(self, name: str, dtype: torch.dtype, shape: Shape) -> Value:
        """An input of the program, of this dtype and shape."""
        spec = InputSpec(name, dtype_name(dtype), tuple(shape))
        if self.inputs.setdefault(name, spec) != spec:
            raise InternalError(f"step input {name} is used with two shapes or dtypes")
        return Value(name, tuple(shape), dtype, InputArgument(name))

    def shape(self, fake: torch.Tensor) -> Shape:
        """The shape of a fake tensor as extents."""
        return tuple(self._sizes.extent(size) for size in fake.shape)

    def argument(self, value: Passed) -> Argument:
        """What a call is given for ``value``; a weight in it is one of the plan."""
        if value is None or isinstance(value, (bool, int, float, str, list)):
            return ValueArgument(value)
        argument = value.argument if isinstance(value, Value) else value
        self.use(argument)
        if not isinstance(value, Value):
            return argument
        if isinstance(argument, (BufferArgument, InputArgument)):
            if isinstance(argument, BufferArgument):
                own = self.buffers[argument.buffer].shape
            else:
                own = self.inputs[argument.input].shape
            shape = value.shape if value.shape != own or argument.real else None
            return replace(argument, shape=argument.shape if argument.shape else shape)
        return argument

    def use(self, argument: Argument) -> None:
        """Make the weights that ``argument`` points into weights of the plan."""
        for part in parts_of(argument):
            known = (self.weights, self.constants)
            if isinstance(part, WeightArgument) and not any(part.weight in each for each in known):
                self.weights[part.weight] = self._program.weights[part.weight]

    def _writable(self, argument: Argument) -> bool:
        if isinstance(argument, InputArgument):
            return argument.input in self._mutated
        return isinstance(argument, (BufferArgument, CacheArgument))

    def _now(self) -> tuple[Node, Op]:
        if self._current is None:
            raise InternalError("nothing is being lowered")
        return self._current

    def _read_later(self, argument: Argument) -> bool:
        return self.liveness.read_after(self._now()[0], argument)


def _shares(left: Value, other: Value) -> bool:
    first, second = left.argument, other.argument
    return (
        isinstance(first, BufferArgument)
        and isinstance(second, BufferArgument)
        and first.buffer == second.buffer
    )
