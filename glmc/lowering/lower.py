"""Lowering: the graph of one phase becomes kernel calls over planned buffers.

Walks the graph once and asks the target's rule for each op; ``emitter.py`` tracks what they emit,
``assemble.py`` makes the plan of the calls.
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
from glmc.lowering.assemble import dtype_name, phase_plan
from glmc.lowering.emitter import LiveEmitter, Storage
from glmc.lowering.in_place import whole
from glmc.lowering.target import SEQUENCES, LoweringOptions, Op, Target, Value
from glmc_runtime.format.cache import CacheTensor
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import (
    BufferArgument,
    CacheArgument,
    Head,
    InputArgument,
    PhasePlan,
    WeightArgument,
)
from glmc_runtime.format.step_inputs import STEP_INPUTS

_VIEWS = ("aten.reshape", "getitem")


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
class Lowering(LiveEmitter):
    """The walk over the graph of one phase."""

    written: dict[int, list[tuple[str, Storage]]] = field(default_factory=lambda: defaultdict(list))

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
        (first,) = output.args[0]  # type: ignore[misc]
        if not m.is_op(first, "glmc.linear"):
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
