"""The emitter that rules see, and buffer liveness: which storage has which value, and which nodes
still read it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Node

from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.ir.symbols import Symbols
from glmc.lowering.assemble import Scratch, dtype_name
from glmc.lowering.in_place import Calls, whole
from glmc.lowering.target import LoweringOptions, Op, Target, Value
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
    storage_of,
)
from glmc_runtime.format.step_inputs import step_input

Storage = BufferArgument | CacheArgument | InputArgument


@dataclass
class LiveEmitter:
    """The emitter of one phase: what is stored where, and who still reads it."""

    program: Program
    target: Target
    options: LoweringOptions
    symbols: Symbols
    notes: dict[str, Value] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    buffers: list[Scratch] = field(default_factory=list)
    calls: Calls = field(default_factory=Calls)
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    values: dict[Node, Value] = field(default_factory=dict)
    # Copies of values that a rule made in another dtype than the graph's, for their readers.
    cast: dict[Node, Value] = field(default_factory=dict)
    outputs: dict[int, Value] = field(default_factory=dict)
    stored_nodes: dict[Storage, list[Node]] = field(default_factory=lambda: defaultdict(list))
    order: dict[Node, int] = field(default_factory=dict)
    # Of the node that is being lowered: buffers that ``mutable`` let it reuse, and those written
    # since.
    reused: set[int] = field(default_factory=set)
    overwritten: set[int] = field(default_factory=set)
    node: Node | None = None
    op: Op | None = None

    # What rules see: the Emitter protocol.

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        self.buffers.append(Scratch(name, tuple(shape), dtype))
        return Value(name, tuple(shape), dtype, BufferArgument(len(self.buffers) - 1))

    def result(self, index: int = 0) -> Value:
        fake = self._fakes()[index]
        name = self._op().node if index == 0 else f"{self._op().node}[{index}]"
        value = self.temporary(name, self._shape(fake), fake.dtype)
        self.outputs[index] = value
        return value

    def bind(self, index: int, value: Value) -> None:
        self.outputs[index] = value

    def mutable(self, value: Value) -> Value:
        argument = value.argument
        if isinstance(argument, BufferArgument):
            if argument.buffer in self.overwritten:
                raise InternalError(
                    f"{value.name} is asked for again after it was overwritten",
                    place=self._op().node,
                    remedy="ask for every mutable operand before the first call",
                )
            taken = argument.buffer in self.reused
            taken = taken or any(self._shares(value, other) for other in self.outputs.values())
            if not taken and not self._read_later(argument):
                self.reused.add(argument.buffer)
                return value
        copy = self.temporary(f"{value.name}.copy", value.shape, value.dtype)
        self.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    def weight(self, weight: Weight) -> Value:
        known = self.weights.get(weight.name) or self.program.weights.get(weight.name, weight)
        if known != weight:
            raise InternalError(f"two different weights are named {weight.name}")
        self.weights[weight.name] = weight
        shape = tuple(Extent(constant=size) for size in weight.shape)
        return Value(weight.name, shape, weight.dtype, WeightArgument(weight.name))

    def recipe(self, value: Value) -> Weight:
        argument = value.argument
        if not isinstance(argument, WeightArgument):
            raise LoweringError(f"{value.name} is no weight", place=self._op().node)
        known = self.weights.get(argument.weight) or self.program.weights.get(argument.weight)
        if known is None:
            raise InternalError(f"weight {argument.weight} is unknown")
        return known

    def input(self, name: str) -> Value:
        row = step_input(name)
        shape = row.shape_of(self.options.blocks_per_sequence)
        return self.declared_input(name, dtype_of(row.dtype), shape)

    def declared_input(self, name: str, dtype: torch.dtype, shape: Shape) -> Value:
        """A step input of this dtype and shape."""
        spec = InputSpec(name, dtype_name(dtype), tuple(shape))
        if self.inputs.setdefault(name, spec) != spec:
            raise InternalError(f"step input {name} is used with two shapes or dtypes")
        return Value(name, tuple(shape), dtype, InputArgument(name))

    def stamp(self, value: Value) -> str:
        return self.calls.stamp(value)

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def call(
        self,
        function: str,
        *,
        writes: tuple[str, ...],
        host: bool = False,
        **arguments: Value | Argument | float | int | bool | str | list[int] | None,
    ) -> None:
        op = self._op()
        bound = {name: self._argument(value) for name, value in arguments.items()}
        for name in writes:
            written = bound.get(name)
            if written is None or not self._writable(written):
                raise InternalError(
                    f"{function} writes '{name}', which is no buffer", place=op.node
                )
            if self._read_later(storage_of(written)):  # type: ignore[arg-type]
                raise InternalError(
                    f"{function} writes '{name}', which is still read later", place=op.node
                )
            if isinstance(written, BufferArgument) and written.buffer in self.reused:
                self.overwritten.add(written.buffer)
        self.calls.append(
            Call(function, bound, writes, host, op.node, op.name, op.layer, op.module)
        )

    # Buffer liveness.

    def _writable(self, argument: Argument) -> bool:
        return isinstance(argument, (BufferArgument, CacheArgument))

    def _ready(self, op: Op) -> Op:
        """The op with its arguments as rules expect them."""
        return op

    def _op(self) -> Op:
        if self.op is None:
            raise InternalError("nothing is being lowered")
        return self.op

    def _fakes(self) -> tuple[torch.Tensor, ...]:
        if self.node is None:
            raise InternalError("nothing is being lowered")
        value = self.node.meta["val"]
        return value if isinstance(value, tuple) else (value,)

    def _shape(self, fake: torch.Tensor) -> Shape:
        return tuple(self.symbols.extent(size) for size in fake.shape)

    @staticmethod
    def _shares(left: Value, other: Value) -> bool:
        first, second = left.argument, other.argument
        return (
            isinstance(first, BufferArgument)
            and isinstance(second, BufferArgument)
            and first.buffer == second.buffer
        )

    def _read_later(self, storage: Storage) -> bool:
        """Whether a later node reads a value that is stored here now."""
        if self.node is None:
            raise InternalError("nothing is being lowered")
        now, stored_nodes = self.order[self.node], self.stored_nodes[whole(storage)]  # type: ignore[index]
        return any(self.order[user] > now for stored in stored_nodes for user in stored.users)

    def _argument(
        self, value: Value | Argument | float | int | bool | str | list[int] | None
    ) -> Argument:
        if value is None or isinstance(value, (bool, int, float, str, list)):
            return ValueArgument(value)
        argument = value.argument if isinstance(value, Value) else value
        self._use_weight(argument)
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

    def _use_weight(self, argument: Argument) -> None:
        argument = storage_of(argument)
        if isinstance(argument, WeightArgument) and argument.weight not in self.weights:
            self.weights[argument.weight] = self.program.weights[argument.weight]

    def value_of(self, node: Node) -> Value:
        """The value of a node, in the dtype that the program gave it."""
        value, wanted = self.values[node], m.tensor(node).dtype
        if value.dtype == wanted:
            return value
        if node not in self.cast:
            out = self.temporary(f"{value.name}_{dtype_name(wanted)}", value.shape, wanted)
            bound = {"source": self._argument(value), "out": self._argument(out)}
            meta = node.meta
            place = (meta["id"], m.op_name(node), meta["layer"], meta["module"])
            self.calls.append(Call("aten.copy", bound, ("out",), False, *place))
            self.cast[node] = out
            self.stored_nodes[whole(out.argument)].append(node)  # type: ignore[index]
        return self.cast[node]

    def _bind_value(self, node: Node, value: Value, made: bool = False) -> None:
        """Bind a node to its value. Only what a rule ``made`` may have a dtype of its own."""
        self._check_value(node, value, made)
        self.values[node] = value
        storage = storage_of(value.argument)
        if isinstance(storage, (BufferArgument, CacheArgument, InputArgument)):
            self.stored_nodes[whole(storage)].append(node)  # type: ignore[index]

    def _check_value(self, node: Node, value: Value, made: bool) -> None:
        fake = m.tensor(node)
        if isinstance(value.argument, CacheArgument):  # in the target's own layout
            return
        shape = self._shape(fake)
        fits = len(shape) == len(value.shape) and all(
            size == other or size.moves or other.moves
            for size, other in zip(shape, value.shape, strict=True)
        )
        if not fits or (fake.dtype != value.dtype and not made):
            raise InternalError(
                f"the plan holds {m.op_name(node)} as another tensor than the program's",
                place=node.meta["id"],
                expected=f"{dtype_name(fake.dtype)} {list(map(str, shape))}",
                found=f"{dtype_name(value.dtype)} {list(map(str, value.shape))}",
            )
