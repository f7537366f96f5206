"""Lowering of a traced program: the same emitter and rules, with the program's own memory.

What an artifact's plan does not have: inputs that belong to the caller (read and written in place,
in their own strides), non-contiguous views, several outputs, sizes of any name, and ATen ops that
no kernel of ours takes, which are called one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Node

from glmc.dynamo.compile.aten import IN_PLACE, AtenLowering
from glmc.dynamo.compile.normal_form import Result, Traced
from glmc.dynamo.compile.sizes import TracedSizes
from glmc.dynamo.compile.views import VIEWS
from glmc.dynamo.run.outputs import OutputAlias, output_aliases
from glmc.errors import AbiError, InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.match import NearMiss
from glmc.ir.recipe import Weight
from glmc.ir.rewrite import fake_mode_of
from glmc.lowering.assemble import Scratch, dtype_name
from glmc.lowering.target import LoweringOptions, Op, Target, Unsupported, Value
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    Call,
    InputArgument,
    ListArgument,
    ValueArgument,
    WeightArgument,
    storage_of,
)

# Without operands these give the same in each step: they are computed once.
_CONSTANT = ("aten.arange", "aten.zeros", "aten.ones", "aten.full", "aten.scalar_tensor")


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


@dataclass
class _TracedLowering(AtenLowering):
    """See the module's text. ``declined``: why no kernel can be bound to a node, by its id."""

    traced: Traced = None  # type: ignore[assignment]
    declined: Mapping[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    copied: dict[Node, Value] = field(default_factory=dict)
    left: list[NearMiss] = field(default_factory=list)

    def lowered(self) -> TracedPlan:
        nodes = list(self.program.graph.nodes)
        self.order = {node: index for index, node in enumerate(nodes)}
        self.mode = fake_mode_of(self.program.graph)
        for node in nodes:
            if node.op == "placeholder":
                if isinstance(node.meta["val"], Tensor):
                    self._bind_input(node)
            elif node.op == "call_function":
                if isinstance(node.meta["val"], (int, SymInt, SymBool, SymFloat, bool, float)):
                    continue  # a size: read off the value itself where it is used
                self._lower_node(node)
            elif node.op == "output":
                return self._finish_plan(node)
        raise InternalError("a traced graph has no output")

    # Inputs and outputs.

    def _bind_input(self, node: Node) -> None:
        fake = m.tensor(node)
        shape = self._shape(fake)
        self.layouts[node] = fake
        if "weight" in node.meta:
            name = node.meta["weight"]
            self.values[node] = Value(name, shape, fake.dtype, WeightArgument(name))
        else:
            self._bind_value(node, self.declared_input(node.meta["input"], fake.dtype, shape))

    def _finish_plan(self, output: Node) -> TracedPlan:
        self.node = output
        self.op = Op("output", "output", "", None, {}, self.program.phase)
        fakes = [getattr(item, "fake", None) for item in self.traced.outputs]
        aliases = output_aliases(self.traced.given, fakes, self.sizes)
        self._copy_aliased_outputs(aliases)
        for name, value in self._new_values().items():
            target = InputArgument(name)
            if value.argument != target:
                self._store(value, target)
        outputs = tuple(map(self._returned, self.traced.outputs, aliases))
        plain = tuple(call for call in self.calls if call.function.startswith("aten.any"))
        return TracedPlan(
            tuple(self.buffers),
            tuple(self.calls),
            outputs,
            self.weights,
            tuple(self.remarks),
            self.sizes,
            plain,
            self.constants,
            tuple(self.left),
        )

    def _new_values(self) -> dict[str, Value]:
        """What each input that the program changes holds afterwards."""
        mutated = self.traced.mutated.items()
        return {name: self.value_of(self.traced.node(result)) for name, result in mutated}

    def _copy_aliased_outputs(self, aliases: Sequence[OutputAlias | None]) -> None:
        """Copies, before any input takes its new value: of outputs with memory of their own whose
        value is in an input that will be written, and of such new values of other inputs."""
        for item, alias in zip(self.traced.outputs, aliases, strict=True):
            if alias is None or alias.position is not None:
                continue
            node = self.traced.node(item)
            value = self.value_of(node)
            storage = storage_of(value.argument)
            if isinstance(storage, InputArgument) and storage.input in self.traced.mutated:
                self.copied[node] = self._contiguous(value)
        for name, value in self._new_values().items():
            storage = storage_of(value.argument)
            if not isinstance(storage, InputArgument) or value.argument == InputArgument(name):
                continue
            if storage.input in self.traced.mutated:
                node = self.traced.node(self.traced.mutated[name])
                self.values[node] = self._contiguous(value)

    def _store(self, value: Value, target: InputArgument) -> None:
        """The new value of an input that the program changes, where it is not there yet."""
        self.calls.append(
            Call(
                "aten.any_in_place",
                {
                    "op": ValueArgument("aten.copy_.default"),
                    "target": target,
                    "operands": ListArgument((self._pinned(value),)),
                    "keyword_names": ValueArgument([]),
                    "keyword_values": ListArgument(()),
                },
                ("target",),
                False,
                "output",
                "output",
                None,
                "",
            )
        )

    def _returned(self, item: Any, alias: OutputAlias | None) -> Any:
        if not isinstance(item, Result):
            return item
        node = self.traced.node(item)
        size = node.meta["val"]
        if isinstance(size, (int, SymInt)):
            return self.sizes.extent(size)
        if isinstance(size, SymFloat):
            return self.sizes.number(size)
        if isinstance(size, SymBool):
            return bool(size)  # asking guards it
        if alias is None:
            raise InternalError("an output has no layout", place=node.meta["id"])
        if alias.position is not None:
            return alias
        value = self.copied.get(node) or self.value_of(node)
        argument = value.argument
        if isinstance(argument, (BufferArgument, InputArgument)):
            argument = replace(argument, shape=value.shape)
        self._use_weight(argument)
        return replace(alias, argument=argument)

    # One node.

    def _lower_node(self, node: Node) -> None:
        source = node.args[0] if node.args else None
        if m.is_op(node, "getitem"):
            self._lower_getitem(node)
        elif m.op_name(node) in VIEWS and isinstance(source, Node) and source in self.values:
            self._lower_view(node, source)
        elif isinstance(source, Node) and m.op_name(node) in ("aten.clone", "aten.contiguous"):
            self._lower_aten(node)
        elif m.op_name(node).startswith("glmc.") and self._rule(node) is not None:
            self._lower_fused(node)
        elif m.op_name(node) in _CONSTANT and self._is_constant(node):
            self._fold_constant(node)
        elif m.op_name(node) in IN_PLACE:
            self._lower_in_place(node)
        else:
            self._lower_aten(node)

    def _lower_fused(self, node: Node) -> None:
        """By the target's rule, or by the op's own reference where its kernels lack the dtype."""
        before, notes, cast = len(self.calls), dict(self.notes), dict(self.cast)
        try:
            if node.meta["id"] in self.declined:
                raise Unsupported(self.declined[node.meta["id"]])
            self._require_dtypes(node)
            self._lower(node)
        except (Unsupported, LoweringError, AbiError) as reason:
            del self.calls[before:]
            self.notes, self.cast = notes, cast  # what these calls would have made
            self._leave_to_aten(node, reason)
            self._lower_aten(node)

    def _leave_to_aten(self, node: Node, reason: Exception) -> None:
        text = getattr(reason, "message", str(reason))
        self.remark(f"left to ATen: {text}")
        meta = node.meta
        passes = meta.get("passes") or (m.op_name(node),)
        self.left.append(
            NearMiss(
                passes[-1],
                anchor=meta["id"],
                node=meta["id"],
                module=meta["module"],
                layer=meta["layer"],
                condition=f"{self.target.name}: {text}",
                source=meta.get("source") or "",
            )
        )

    def _require_dtypes(self, node: Node) -> None:
        for source in node.all_input_nodes:
            value = source.meta["val"]
            if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
                continue
            if value.dtype not in self.target.dtypes:
                raise Unsupported(f"{m.op_name(node)} has no kernel for {dtype_name(value.dtype)}")

    def _rule(self, node: Node) -> object:
        return self.target.rules.get(m.op_name(node).removeprefix("glmc."))

    @staticmethod
    def _is_constant(node: Node) -> bool:
        return not node.all_input_nodes and all(map(m.is_static, m.shape(node)))

    def _fold_constant(self, node: Node) -> None:
        """A value without operands, computed here; the same values are one constant."""
        target: Any = node.target
        with torch.inference_mode(False), unset_fake_temporarily(), torch.no_grad():
            value = target(*node.args, **node.kwargs)
        key = f"constant {node.target} {node.args} {sorted(node.kwargs.items(), key=str)}"
        self.constants.setdefault(key, value)
        shape = self._shape(m.tensor(node))
        self.values[node] = Value(node.name, shape, value.dtype, WeightArgument(key))

    # Memory of others.

    def _use_weight(self, argument: Argument) -> None:
        storage = storage_of(argument)
        if not (isinstance(storage, WeightArgument) and storage.weight in self.constants):
            super()._use_weight(argument)

    def mutable(self, value: Value) -> Value:
        argument = value.argument
        if isinstance(argument, InputArgument) and argument.input in self.traced.mutated:
            if not self._read_later(argument):
                return value
            copy = self.temporary(f"{value.name}.copy", value.shape, value.dtype)
            self.call("aten.copy", writes=("out",), source=value, out=copy)
            return copy
        return super().mutable(value)

    def _writable(self, argument: Argument) -> bool:
        if isinstance(argument, InputArgument):
            return argument.input in self.traced.mutated
        return super()._writable(argument)


def lower_traced(
    traced: Traced, target: Target, options: LoweringOptions, declined: Mapping[str, str]
) -> TracedPlan:
    """Lower a traced program after its passes; raises LoweringError. ``declined``: by the id of a
    node that is left to ATen, why."""
    lowering = _TracedLowering(traced.program, target, options, None)  # type: ignore[arg-type]
    lowering.traced, lowering.declined = traced, declined
    return lowering.lowered()
