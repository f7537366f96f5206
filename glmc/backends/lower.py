"""Lowering: the graph of one phase becomes kernel calls over planned buffers.

Walks the graph once, asks the target's rule for each op, and keeps the books: which buffer holds
which value, who still reads it, when it lives. Memory offsets come from passes/memory_plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Node

from glmc.backends.base import LoweringOptions, Op, Target, Value
from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import OPS
from glmc.ir.program import Program
from glmc.ir.symbols import Symbols
from glmc.passes import memory_plan
from glmc.weights.recipe import Weight
from glmc_runtime.plan import (
    Argument,
    Buffer,
    BufferArgument,
    CacheArgument,
    Call,
    Extent,
    ExtentArgument,
    InputArgument,
    InputSpec,
    PhasePlan,
    Segment,
    Shape,
    ValueArgument,
    WeightArgument,
)

_VIEWS = ("aten.reshape", "getitem")


@dataclass(frozen=True)
class Lowered:
    """The plan of a phase, the weights it binds, and what the rules wrote down."""

    plan: PhasePlan
    weights: dict[str, Weight]
    remarks: tuple[str, ...]


@dataclass
class _Buffer:
    name: str
    shape: Shape
    dtype: torch.dtype


@dataclass
class _Lowering:
    """The emitter: state of one phase while it is lowered."""

    program: Program
    target: Target
    options: LoweringOptions
    symbols: Symbols
    notes: dict[str, Value] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    buffers: list[_Buffer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    values: dict[Node, Value] = field(default_factory=dict)
    outputs: dict[int, Value] = field(default_factory=dict)
    holders: dict[int, list[Node]] = field(default_factory=lambda: defaultdict(list))
    order: dict[Node, int] = field(default_factory=dict)
    node: Node | None = None
    op: Op | None = None

    # What rules see: the Emitter protocol.

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        self.buffers.append(_Buffer(name, tuple(shape), dtype))
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
        free = isinstance(argument, BufferArgument) and not self._read_later(argument.buffer)
        if free and not any(self._shares(value, other) for other in self.outputs.values()):
            return value
        copy = self.temporary(f"{value.name}.copy", value.shape, value.dtype)
        self.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    def weight(self, weight: Weight) -> Value:
        known = self.weights.setdefault(weight.name, weight)
        if known != weight:
            raise InternalError(f"two different weights are named {weight.name}")
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

    def input(self, name: str, dtype: torch.dtype, shape: Shape) -> Value:
        spec = InputSpec(name, _dtype_name(dtype), tuple(shape))
        if self.inputs.setdefault(name, spec) != spec:
            raise InternalError(f"step input {name} is used with two shapes or dtypes")
        return Value(name, tuple(shape), dtype, InputArgument(name))

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
            if not isinstance(bound.get(name), (BufferArgument, CacheArgument)):
                raise InternalError(
                    f"{function} writes '{name}', which is no buffer", place=op.node
                )
        self.calls.append(
            Call(function, bound, writes, host, op.node, op.name, op.layer, op.module)
        )

    # The books.

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
    def _shares(one: Value, other: Value) -> bool:
        first, second = one.argument, other.argument
        return (
            isinstance(first, BufferArgument)
            and isinstance(second, BufferArgument)
            and first.buffer == second.buffer
        )

    def _read_later(self, buffer: int) -> bool:
        """Whether a later node reads a value in this buffer."""
        if self.node is None:
            raise InternalError("nothing is being lowered")
        now = self.order[self.node]
        return any(
            self.order[user] > now for holder in self.holders[buffer] for user in holder.users
        )

    def _argument(self, value: object) -> Argument:
        if not isinstance(value, Value):
            if isinstance(
                value,
                (
                    BufferArgument,
                    WeightArgument,
                    InputArgument,
                    CacheArgument,
                    ExtentArgument,
                    ValueArgument,
                ),
            ):
                self._note_weight(value)
                return value
            return ValueArgument(value)
        argument = value.argument
        self._note_weight(argument)
        if isinstance(argument, BufferArgument):
            own = self.buffers[argument.buffer].shape
            shape = value.shape if value.shape != own or argument.real else None
            return replace(argument, shape=argument.shape if argument.shape else shape)
        if isinstance(argument, InputArgument) and argument.real and argument.shape is None:
            return replace(argument, shape=value.shape)
        return argument

    def _note_weight(self, argument: Argument) -> None:
        if isinstance(argument, WeightArgument) and argument.weight not in self.weights:
            self.weights[argument.weight] = self.program.weights[argument.weight]

    # The walk.

    def run(self) -> Lowered:
        nodes = list(self.program.graph.nodes)
        self.order = {node: index for index, node in enumerate(nodes)}
        output: Value | None = None
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                output = self.values[node.args[0][0]]
            elif m.is_op(node, *_VIEWS):
                self._view(node)
            else:
                self._lower(node)
        if output is None or not isinstance(output.argument, BufferArgument):
            raise InternalError("the output of the phase is no buffer")
        return self._finish(output.argument.buffer)

    def _placeholder(self, node: Node) -> Value:
        fake = m.tensor(node)
        name: str = node.meta.get("input") or node.meta["weight"]
        if "weight" in node.meta:
            shape = tuple(Extent(constant=size) for size in self.program.weights[name].shape)
            return Value(name, shape, fake.dtype, WeightArgument(name))
        kind, dot, layer = name.partition("_cache.")
        if dot:
            sizes = (Extent(), *(Extent(constant=int(size)) for size in fake.shape[1:]))
            return Value(name, sizes, fake.dtype, CacheArgument(kind, int(layer)))
        return self.input(name, fake.dtype, self._input_shape(name, fake))

    def _input_shape(self, name: str, fake: torch.Tensor) -> Shape:
        """Step inputs are sized by contract: tables by sequences, lods by sequences + 1."""
        sequences = Extent(sequences=1)
        shapes: dict[str, Shape] = {
            "block_tables": (sequences, Extent(constant=self.options.blocks_per_sequence)),
            "query_lod": (Extent(sequences=1, constant=1),),
            "context_lod": (Extent(sequences=1, constant=1),),
            "context_lengths": (sequences,),
            "last_rows": (sequences,),
        }
        return shapes.get(name) or self._shape(fake)

    def _view(self, node: Node) -> None:
        source = node.args[0]
        if m.is_op(node, "getitem"):
            if node in self.values:
                return
            raise InternalError(f"output {node.args[1]} of {source} was not bound by its rule")
        value = self.values[source]  # type: ignore[index]
        self._hold(node, replace(value, shape=self._shape(m.tensor(node))))

    def _hold(self, node: Node, value: Value) -> None:
        self.values[node] = value
        if isinstance(value.argument, BufferArgument):
            self.holders[value.argument.buffer].append(node)

    def _lower(self, node: Node) -> None:
        name = m.op_name(node).removeprefix("glmc.").removeprefix("aten.")
        rule = self.target.rules.get(name)
        if rule is None:
            raise LoweringError(
                f"{self.target.name} has no kernel for {m.op_name(node)}",
                place=f"{node.meta['id']} {node.meta.get('source') or ''}".strip(),
                expected="one of " + ", ".join(sorted(self.target.rules)),
                found=m.op_name(node),
                remedy="see which pass missed this node: glmc inspect ARTIFACT, 'not fused'",
            )
        self.node, self.outputs = node, {}
        self.op = Op(
            name,
            node.meta["id"],
            node.meta["module"],
            node.meta["layer"],
            self._arguments(node, name),
            self.program.phase,
        )
        rule(self.op, self)
        self._keep_outputs(node)

    def _arguments(
        self, node: Node, name: str
    ) -> dict[str, Value | float | int | bool | str | None]:
        names: Iterable[str] = OPS[name].argument_names if name in OPS else ("x", "y", "z")
        bound: dict[str, Value | float | int | bool | str | None] = {}
        for key, argument in zip(names, node.args, strict=False):
            if isinstance(argument, Node):
                bound[key] = self.values[argument]
            elif argument is None or isinstance(argument, (bool, int, float, str)):
                bound[key] = argument
            else:
                raise InternalError(f"{node.meta['id']} has an argument of {type(argument)}")
        return bound

    def _keep_outputs(self, node: Node) -> None:
        if isinstance(node.meta["val"], tuple):
            for user in node.users:
                index = user.args[1]
                if isinstance(index, int) and index in self.outputs:
                    self._hold(user, self.outputs[index])
        elif 0 in self.outputs:
            self._hold(node, self.outputs[0])
        else:
            raise InternalError(f"the rule for {m.op_name(node)} gave no result")

    def _finish(self, output: int) -> Lowered:
        spans = _spans(self.calls, len(self.buffers), output)
        used = [index for index, span in enumerate(spans) if span is not None]
        requests = []
        for index in used:
            span, buffer = spans[index], self.buffers[index]
            if span is not None:
                requests.append(memory_plan.Request(index, _bytes(buffer), *span))
        planned = memory_plan.plan(requests)
        buffers = tuple(
            Buffer(
                request.id,
                self.buffers[request.id].name,
                _dtype_name(self.buffers[request.id].dtype),
                self.buffers[request.id].shape,
                planned.offsets[request.id],
                request.first,
                request.last,
            )
            for request in requests
        )
        plan = PhasePlan(
            self.program.phase,
            tuple(self.inputs.values()),
            buffers,
            tuple(self.calls),
            _segments(self.calls),
            output,
            planned.arena,
        )
        return Lowered(plan, self.weights, tuple(self.remarks))


def lower(program: Program, target: Target, options: LoweringOptions) -> Lowered:
    """Lower one phase; raises LoweringError for an op or limit that the target can't serve."""
    if program.symbols is None:
        raise InternalError("only a specialised program can be lowered")
    target.check(options, program.model)
    return _Lowering(program, target, options, program.symbols).run()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(buffer: _Buffer) -> Extent:
    """Size in bytes; at most one dimension may follow the step."""
    size = Extent(constant=1)
    for extent in buffer.shape:
        if extent.tokens or extent.sequences:
            if size.tokens or size.sequences:
                raise InternalError(f"buffer {buffer.name} has two dimensions that follow the step")
            size = extent * size.constant
        else:
            size = size * extent.constant
    return size * buffer.dtype.itemsize


def _spans(calls: list[Call], buffers: int, output: int) -> list[tuple[int, int] | None]:
    """First and last call that touches each buffer; the output lives to the end."""
    spans: list[tuple[int, int] | None] = [None] * buffers
    for index, call in enumerate(calls):
        for argument in call.arguments.values():
            if isinstance(argument, BufferArgument):
                span = spans[argument.buffer]
                spans[argument.buffer] = (span[0] if span else index, index)
    last = spans[output]
    if last is not None:
        spans[output] = (last[0], len(calls) - 1)
    return spans


def _segments(calls: list[Call]) -> tuple[Segment, ...]:
    """Maximal runs of calls that a device graph can hold, and of those that it can't."""
    segments: list[Segment] = []
    for index, call in enumerate(calls):
        if segments and segments[-1].captured is not call.host:
            segments[-1] = replace(segments[-1], last=index)
        else:
            segments.append(Segment(index, index, not call.host))
    return tuple(segments)
