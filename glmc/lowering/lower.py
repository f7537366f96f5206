"""Lowering: the graph of one phase becomes kernel calls over planned buffers.

Walks the graph once and asks the target's rule for each op (``apply.py``), which emits calls
(``emitter.py``). Writes in place are decided by buffer liveness (``liveness.py``).
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
from glmc.ir.program import Cache, Program
from glmc.ir.recipe import Weight
from glmc.ir.symbols import Symbols
from glmc.lowering.apply import RuleApplication
from glmc.lowering.assemble import dtype_name, phase_plan
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.liveness import Storage
from glmc.lowering.node_values import NodeValues
from glmc.lowering.plan_values import plan_values
from glmc.lowering.target import SEQUENCES, LoweringOptions, Target, Value
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
from glmc_runtime.format.values import PlanValue

_VIEWS = ("aten.reshape", "getitem")


@dataclass(frozen=True)
class Lowered:
    """The plan of a phase, the weights and caches it binds, and what the rules wrote down.

    ``outputs``: by the last call of each node, the names of the graph's values that are complete
    after it, and the storage of each; what bisect looks at, not a part of the artifact. ``values``
    says what these are, of an artifact's phase. ``program`` is what was lowered, with the target's
    merges.
    """

    plan: PhasePlan
    weights: dict[str, Weight]
    remarks: tuple[str, ...]
    outputs: Mapping[int, tuple[tuple[str, Storage], ...]]
    caches: tuple[CacheTensor, ...] = ()
    values: tuple[PlanValue, ...] = ()
    program: Program | None = field(default=None, repr=False, compare=False)


class _PhaseWalk:
    """The walk over the graph of one phase."""

    def __init__(
        self, program: Program, target: Target, options: LoweringOptions, symbols: Symbols
    ) -> None:
        self._program, self._target, self._options = program, target, options
        self._emitter = CallEmitter(program, options, symbols)
        self._values = NodeValues(self._emitter)
        self._apply = RuleApplication(target, self._emitter, self._values)

    def run(self) -> Lowered:
        emitter, phase = self._emitter, self._program.phase
        output: Value | None = None
        starts: dict[Node, int] = {}
        for node in self._program.graph.nodes:
            starts[node] = len(emitter.calls)
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                output = self._output(node)
            elif m.is_op(node, *_VIEWS):
                self._view(node)
            else:
                self._apply(node)
        if output is None or not isinstance(output.argument, BufferArgument):
            raise InternalError("the output of the phase is no buffer")
        inputs = tuple(emitter.inputs.values())
        buffer, greedy, head = output.argument.buffer, self._greedy(output), self._head(starts)
        plan = phase_plan(phase, inputs, emitter.buffers, emitter.calls, buffer, greedy, head)
        written = {position: tuple(names) for position, names in self._apply.written.items()}
        caches = cache_tensors(self._program)
        values = plan_values(self._program, written, self._apply.unread)
        remarks = tuple(emitter.remarks)
        return Lowered(
            plan, emitter.weights, remarks, written, caches, values, program=self._program
        )

    def _greedy(self, logits: Value) -> int | None:
        """The buffer that the target's own kernel fills with the greedy tokens."""
        if self._target.greedy is None:
            return None
        tokens = self._emitter.temporary("greedy", (SEQUENCES,), torch.int64)
        self._emitter.call(self._target.greedy, writes=("out",), logits=logits, out=tokens)
        return len(self._emitter.buffers) - 1

    def _head(self, starts: Mapping[Node, int]) -> Head | None:
        """Where the head begins, None for a program that ends otherwise; ``starts`` has for each
        node the first of its calls."""
        *_, output = starts
        first = output.args[0][0]  # type: ignore[index]
        if isinstance(first, Node) and m.is_op(first, "glmc.all_gather"):
            first = m.operand(first, 0)
        if not isinstance(first, Node) or not m.is_op(first, "glmc.linear"):
            return None
        hidden = m.operand(first, 0)
        if m.is_op(hidden, "glmc.select_rows"):
            first, hidden = hidden, m.operand(hidden, 0)
        argument = self._values.as_made(hidden).argument
        if not isinstance(argument, BufferArgument):
            return None
        return Head(argument.buffer, starts[first])

    def _output(self, node: Node) -> Value:
        results = node.args[0]
        if not isinstance(results, (tuple, list)) or len(results) != 1:
            raise InternalError("a phase has one output, the logits", found=str(results))
        value = self._values.of(results[0])  # type: ignore[arg-type]
        argument = value.argument
        if isinstance(argument, BufferArgument):
            whole = self._emitter.buffers[argument.buffer].shape
            if value.shape != whole:
                raise InternalError("the output of the phase is a view", expected=str(whole))
        return value

    def _placeholder(self, node: Node) -> None:
        fake = m.tensor(node)
        name: str = node.meta.get("input") or node.meta["weight"]
        if "weight" in node.meta:
            shape = tuple(Extent(constant=size) for size in self._program.weights[name].shape)
            self._values.put(node, Value(name, shape, fake.dtype, WeightArgument(name)))
        elif "cache" in node.meta:
            sizes = (Extent(), *(Extent(constant=int(size)) for size in fake.shape[1:]))
            cache = CacheArgument(*node.meta["cache"].key)
            self._values.bind(node, Value(name, sizes, fake.dtype, cache))
        else:
            row = STEP_INPUTS.get(name)  # a program of a test may have others
            width = self._options.blocks_per_sequence
            shape = self._emitter.shape(fake) if row is None else row.shape_of(width)
            value = self._emitter.declared_input(name, fake.dtype, shape)
            self._values.put(node, value)

    def _view(self, node: Node) -> None:
        source = node.args[0]
        if m.is_op(node, "getitem"):
            if node in self._values:
                return
            raise InternalError(f"output {node.args[1]} of {source} was not bound by its rule")
        value = self._values.of(source)  # type: ignore[arg-type]
        if not isinstance(value.argument, (BufferArgument, InputArgument)):
            raise LoweringError(
                f"{value.name} can't be read in another shape",
                place=node.meta["id"],
                expected="a reshape of a value of the step",
                found=m.op_name(node),
            )
        self._values.bind(node, replace(value, shape=self._emitter.shape(m.tensor(node))))


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
    return _PhaseWalk(program, target, options, program.symbols).run()
