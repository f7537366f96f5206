"""Lowering of a traced program: the emitter and rules of an artifact, another walk.

What an artifact's plan does not have: inputs that belong to the caller (read and written in place,
in their own strides), non-contiguous views (``views.py``), several outputs (``results.py``), sizes
of any name, and ATen ops that no kernel of ours takes (``aten.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Node

from glmc.dynamo.compile.aten import AtenCalls
from glmc.dynamo.compile.normal_form import Traced
from glmc.dynamo.compile.results import Results
from glmc.dynamo.compile.sizes import TracedSizes
from glmc.dynamo.compile.views import VIEWS, Views
from glmc.errors import AbiError, InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.match import NearMiss
from glmc.ir.recipe import Weight
from glmc.lowering.apply import RuleApplication
from glmc.lowering.assemble import Scratch, dtype_name
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.node_values import NodeValues
from glmc.lowering.target import LoweringOptions, Target, Unsupported, Value
from glmc_runtime.format.plan import Call, WeightArgument


@dataclass(frozen=True)
class TracedPlan:
    """Calls over buffers, and what the compiled function returns: :class:`OutputAlias`, sizes,
    None."""

    buffers: tuple[Scratch, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Any, ...]
    weights: Mapping[str, Weight]
    remarks: tuple[str, ...]
    sizes: TracedSizes
    plain: tuple[Call, ...]
    """The calls that are ATen ops one by one."""
    constants: Mapping[str, Tensor]
    left: tuple[NearMiss, ...]
    """What was fused and is done by ATen all the same, since no kernel of the target takes it."""


class _TracedWalk:
    """The walk over a traced program. ``declined``: why no kernel can be bound to a node, by its
    id."""

    def __init__(
        self,
        traced: Traced,
        target: Target,
        options: LoweringOptions,
        declined: Mapping[str, str],
    ) -> None:
        program = traced.program
        self._program, self._target, self._declined = program, target, declined
        self._sizes = TracedSizes()
        self._emitter = emitter = CallEmitter(program, options, self._sizes, traced.mutated)
        self._values = values = NodeValues(emitter)
        self._apply = RuleApplication(target, emitter, values)
        self._views = views = Views(program, emitter, values, self._sizes)
        self._aten = AtenCalls(emitter, values, views, self._sizes)
        self._results = Results(traced, emitter, values, views, self._aten, self._sizes)
        self._left: list[NearMiss] = []

    def run(self) -> TracedPlan:
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                if isinstance(node.meta["val"], Tensor):
                    self._bind_input(node)
            elif node.op == "call_function":
                if isinstance(node.meta["val"], (int, SymInt, SymBool, SymFloat, bool, float)):
                    continue  # a size: read off the value itself where it is used
                self._lower_node(node)
            elif node.op == "output":
                return self._plan(self._results.lower(node))
        raise InternalError("a traced graph has no output")

    def _plan(self, outputs: tuple[Any, ...]) -> TracedPlan:
        emitter = self._emitter
        return TracedPlan(
            tuple(emitter.buffers),
            tuple(emitter.calls),
            outputs,
            emitter.weights,
            tuple(emitter.remarks),
            self._sizes,
            tuple(call for call in emitter.calls if call.function.startswith("aten.any")),
            emitter.constants,
            tuple(self._left),
        )

    def _bind_input(self, node: Node) -> None:
        fake = m.tensor(node)
        shape = self._emitter.shape(fake)
        self._views.layouts[node] = fake
        if "weight" in node.meta:
            name = node.meta["weight"]
            self._values.put(node, Value(name, shape, fake.dtype, WeightArgument(name)))
        else:
            value = self._emitter.declared_input(node.meta["input"], fake.dtype, shape)
            self._values.bind(node, value)

    def _lower_node(self, node: Node) -> None:
        source, name = node.args[0] if node.args else None, m.op_name(node)
        if m.is_op(node, "getitem"):
            self._views.lower_getitem(node)
        elif name in VIEWS and isinstance(source, Node) and source in self._values:
            self._views.lower_view(node, source)
        elif name.startswith("glmc."):
            self._lower_fused(node)
        else:
            self._aten.lower(node)

    def _lower_fused(self, node: Node) -> None:
        """By the target's rule, or by the op's own reference where its kernels lack the dtype."""
        op = m.op_name(node).removeprefix("glmc.")
        if op not in self._target.rules:
            self._leave_to_aten(node, Unsupported(f"{self._target.name} has no rule for {op}"))
            self._aten.lower_out_of_place(node)
            return
        mark, casts = self._emitter.mark(), self._values.casts()
        try:
            if node.meta["id"] in self._declined:
                raise Unsupported(self._declined[node.meta["id"]])
            self._require_dtypes(node)
            self._apply(node, self._views.ready)
        except (Unsupported, LoweringError, AbiError) as reason:
            self._emitter.back_to(mark)
            self._values.forget_casts(casts)
            self._leave_to_aten(node, reason)
            self._aten.lower_out_of_place(node)

    def _leave_to_aten(self, node: Node, reason: Exception) -> None:
        text = getattr(reason, "message", str(reason))
        self._emitter.remark(f"left to ATen: {text}")
        meta = node.meta
        passes = meta.get("passes") or (m.op_name(node),)
        self._left.append(
            NearMiss(
                passes[-1],
                anchor=meta["id"],
                node=meta["id"],
                module=meta["module"],
                layer=meta["layer"],
                condition=f"{self._target.name}: {text}",
                source=meta.get("source") or "",
            )
        )

    def _require_dtypes(self, node: Node) -> None:
        for source in node.all_input_nodes:
            value = source.meta["val"]
            if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
                continue
            if value.dtype not in self._target.dtypes:
                raise Unsupported(f"{m.op_name(node)} has no kernel for {dtype_name(value.dtype)}")


def lower_traced(
    traced: Traced, target: Target, options: LoweringOptions, declined: Mapping[str, str]
) -> TracedPlan:
    """Lower a traced program after its passes; raises LoweringError. ``declined``: by the id of a
    node that is left to ATen, why."""
    return _TracedWalk(traced, target, options, declined).run()
