"""Lowering: the graph of one phase becomes kernel calls over planned buffers.

Walks the graph once, asks the target's rule for each op, and tracks buffer liveness: which storage
has which value, and which nodes still read it. ``assemble.py`` makes the plan of the calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Node

from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import OPS
from glmc.ir.ops.aten import aten_facts
from glmc.ir.program import Cache, Program
from glmc.ir.recipe import Weight
from glmc.ir.symbols import Symbols
from glmc.lowering.assemble import Scratch, dtype_name, phase_plan
from glmc.lowering.in_place import Calls, whole
from glmc.lowering.target import SEQUENCES, LoweringOptions, Op, Target, Value
from glmc_runtime.format.cache import CacheTensor
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    Head,
    InputArgument,
    InputSpec,
    PhasePlan,
    ValueArgument,
    WeightArgument,
    storage_of,
)
from glmc_runtime.format.step_inputs import STEP_INPUTS, step_input

_VIEWS = ("aten.reshape", "getitem")
Storage = BufferArgument | CacheArgument | InputArgument


@dataclass(frozen=True)
class Lowered:
    """The plan of a phase, the weights and caches it binds, and what the rules wrote down.

    ``outputs``: by the last call of each node, the names of the graph's values that are complete
    after it, and the storage of each; what bisect looks at, not a part of the artifact.
    """

    plan: PhasePlan
    weights: dict[str, Weight]
    remarks: tuple[str, ...]
    outputs: Mapping[int, tuple[tuple[str, Storage], ...]]
    caches: tuple[CacheTensor, ...] = ()


@dataclass
class Lowering:
    """The emitter: state of one phase while it is lowered."""

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
    written: dict[int, list[tuple[str, Storage]]] = field(default_factory=lambda: defaultdict(list))
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

    # The walk.

    def run(self) -> Lowered:
        nodes = list(self.program.graph.nodes)
        self.order = {node: index for index, node in enumerate(nodes)}
        output: Value | None = None
        starts: dict[Node, int] = {}
        for node in nodes:
            starts[node] = len(self.calls)
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                output = self._output(node)
            elif m.is_op(node, *_VIEWS):
                self._view(node)
            else:
                self._lower(node)
        if output is None or not isinstance(output.argument, BufferArgument):
            raise InternalError("the output of the phase is no buffer")
        inputs = tuple(self.inputs.values())
        buffer, greedy, head = output.argument.buffer, self._greedy(output), self._head(starts)
        phase = self.program.phase
        plan = phase_plan(phase, inputs, self.buffers, self.calls, buffer, greedy, head)
        written = {position: tuple(values) for position, values in self.written.items()}
        caches = cache_tensors(self.program)
        return Lowered(plan, self.weights, tuple(self.remarks), written, caches)

    def _greedy(self, logits: Value) -> int | None:
        """The buffer that the target's own kernel fills with the greedy tokens."""
        if self.target.greedy is None:
            return None
        tokens = self.temporary("greedy", (SEQUENCES,), torch.int64)
        self.call(self.target.greedy, writes=("out",), logits=logits, out=tokens)
        return len(self.buffers) - 1

    def _head(self, starts: Mapping[Node, int]) -> Head | None:
        """Where the head begins, None for a program that ends otherwise; ``starts`` has for each
        node the first of its calls."""
        *_, output = starts
        first = output.args[0][0]  # type: ignore[index]
        if not isinstance(first, Node) or not m.is_op(first, "glmc.linear"):
            return None
        hidden = m.operand(first, 0)
        if m.is_op(hidden, "glmc.select_rows"):
            first, hidden = hidden, m.operand(hidden, 0)
        argument = self.values[hidden].argument
        if not isinstance(argument, BufferArgument):
            return None
        return Head(argument.buffer, starts[first])

    def _output(self, node: Node) -> Value:
        results = node.args[0]
        if not isinstance(results, (tuple, list)) or len(results) != 1:
            raise InternalError("a phase has one output, the logits", found=str(results))
        value = self.value_of(results[0])  # type: ignore[arg-type]
        argument = value.argument
        if isinstance(argument, BufferArgument):
            whole = self.buffers[argument.buffer].shape
            if value.shape != whole:
                raise InternalError("the output of the phase is a view", expected=str(whole))
        return value

    def _placeholder(self, node: Node) -> Value:
        fake = m.tensor(node)
        name: str = node.meta.get("input") or node.meta["weight"]
        if "weight" in node.meta:
            shape = tuple(Extent(constant=size) for size in self.program.weights[name].shape)
            return Value(name, shape, fake.dtype, WeightArgument(name))
        if "cache" in node.meta:
            sizes = (Extent(), *(Extent(constant=int(size)) for size in fake.shape[1:]))
            cache = CacheArgument(*node.meta["cache"].key)
            self.stored_nodes[cache].append(node)
            return Value(name, sizes, fake.dtype, cache)
        row = STEP_INPUTS.get(name)  # a program of a test may have others
        width = self.options.blocks_per_sequence
        shape = self._shape(fake) if row is None else row.shape_of(width)
        return self.declared_input(name, fake.dtype, shape)

    def _view(self, node: Node) -> None:
        source = node.args[0]
        if m.is_op(node, "getitem"):
            if node in self.values:
                return
            raise InternalError(f"output {node.args[1]} of {source} was not bound by its rule")
        value = self.value_of(source)  # type: ignore[arg-type]
        if not isinstance(value.argument, (BufferArgument, InputArgument)):
            raise LoweringError(
                f"{value.name} can't be read in another shape",
                place=node.meta["id"],
                expected="a reshape of a value of the step",
                found=m.op_name(node),
            )
        self._bind_value(node, replace(value, shape=self._shape(m.tensor(node))))

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

    def _lower(self, node: Node) -> None:
        name = m.op_name(node).removeprefix("glmc.")
        rule = self.target.rules.get(name)
        if rule is None:
            raise LoweringError(
                f"{self.target.name} has no kernel for {m.op_name(node)}",
                place=f"{node.meta['id']} {node.meta.get('source') or ''}".strip(),
                expected="one of " + ", ".join(sorted(self.target.rules)),
                found=m.op_name(node),
                remedy="see which pass made or missed this node: glmc compile ... --report",
            )
        self.node, self.outputs = node, {}
        self.reused, self.overwritten = set(), set()
        self.op = Op(
            name,
            node.meta["id"],
            node.meta["module"],
            node.meta["layer"],
            self._arguments(node, name),
            self.program.phase,
        )
        self.op = self._ready(self.op)
        rule(self.op, self)
        self._bind_outputs(node)

    def _arguments(
        self, node: Node, name: str
    ) -> dict[str, Value | float | int | bool | str | list[int] | None]:
        facts = aten_facts(name)
        unknown = {key: value for key, value in node.kwargs.items() if key not in facts.implied}
        if unknown:
            raise LoweringError(
                f"no rule knows what {', '.join(unknown)} of {m.op_name(node)} means",
                place=node.meta["id"],
                found=", ".join(f"{key}={value}" for key, value in unknown.items()),
                remedy="see which pass missed this node: glmc inspect ARTIFACT, 'not fused'",
            )
        names = OPS[name].argument_names if name in OPS else facts.arguments
        if len(node.args) > len(names):
            raise LoweringError(
                f"no rule knows what all arguments of {m.op_name(node)} mean",
                place=node.meta["id"],
                expected=f"at most {len(names)}",
                found=", ".join(map(str, node.args)),
                remedy="see which pass missed this node: glmc inspect ARTIFACT, 'not fused'",
            )
        bound: dict[str, Value | float | int | bool | str | list[int] | None] = {}
        for key, argument in zip(names[: len(node.args)], node.args, strict=True):
            if isinstance(argument, Node):
                as_made = (name, key) in self.target.as_made
                bound[key] = self.values[argument] if as_made else self.value_of(argument)
            elif argument is None or isinstance(argument, (bool, int, float, str)):
                bound[key] = argument
            elif isinstance(argument, (list, tuple)) and all(isinstance(i, int) for i in argument):
                bound[key] = [int(i) for i in argument if isinstance(i, int)]
            else:
                raise InternalError(f"{node.meta['id']} has an argument of {type(argument)}")
        return bound

    def _bind_outputs(self, node: Node) -> None:
        if isinstance(node.meta["val"], tuple):
            for user in node.users:
                index = user.args[1]
                if isinstance(index, int) and index in self.outputs:
                    self._keep(user, self.outputs[index])
        elif 0 in self.outputs:
            self._keep(node, self.outputs[0])
        else:
            raise InternalError(f"the rule for {m.op_name(node)} gave no result")

    def _keep(self, node: Node, value: Value) -> None:
        self._bind_value(node, value, made=True)
        if isinstance(value.argument, (BufferArgument, CacheArgument)):
            place = (node.name, whole(value.argument))
            self.written[len(self.calls) - 1].append(place)  # type: ignore[arg-type]


def cache_tensors(program: Program) -> tuple[CacheTensor, ...]:
    """The paged cache of a program; layers with alike tensors of a name are in one row."""
    layers: dict[tuple[str, tuple[int, ...], str], list[int]] = defaultdict(list)
    for node in program.caches():
        cache: Cache = node.meta["cache"]
        row = (cache.key.name, cache.shape, dtype_name(m.tensor(node).dtype))
        layers[row].append(cache.key.layer)
    return tuple(CacheTensor(*row, tuple(numbers)) for row, numbers in layers.items())


def lower(program: Program, target: Target, options: LoweringOptions) -> Lowered:
    """Lower one phase; raises LoweringError for an op or limit that the target can't serve."""
    if program.symbols is None:
        raise InternalError("only a specialised program can be lowered")
    target.check(options, program.model)
    return Lowering(program, target, options, program.symbols).run()
