"""Lowering of a traced program: the same emitter and rules, with the program's own memory.

What an artifact's plan does not have: inputs that belong to the caller (read and written where
they lie, in their own strides), views with gaps, several outputs, sizes of any name, and ATen ops
that no kernel of ours takes, which are called one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Node

from glmc.backends.assemble import Scratch
from glmc.backends.base import LoweringOptions, Op, Target, Value
from glmc.backends.lower import Lowering
from glmc.dynamo.normal_form import Result, Traced
from glmc.dynamo.sizes import TracedSizes
from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.rewrite import fake_mode_of
from glmc.weights.recipe import Weight
from glmc_runtime.plan import (
    Argument,
    BufferArgument,
    Call,
    Extent,
    ExtentArgument,
    InputArgument,
    ListArgument,
    ValueArgument,
    ViewArgument,
    WeightArgument,
    storage_of,
)

_VIEWS = frozenset(
    """aten.reshape aten.permute aten.slice aten.select aten.unsqueeze aten.squeeze aten.expand
    aten.alias aten.detach aten.transpose aten.t aten.view aten.narrow aten.unbind aten.split
    aten.split_with_sizes aten.chunk aten.diagonal aten.unfold aten.view_as_real
    aten.view_as_complex aten.real aten.flatten aten.unflatten aten.movedim aten.lift_fresh
    """.split()  # noqa: SIM905
)
# Without operands these give the same in each step: they are computed once.
_CONSTANT = ("aten.arange", "aten.zeros", "aten.ones", "aten.full", "aten.scalar_tensor")
# What becomes another shape of the same memory, where that lies without gaps.
_RESHAPES = ("aten.reshape", "aten.view", "aten.unsqueeze", "aten.squeeze", "aten.alias")
_IN_PLACE = {
    "aten.index_copy": "aten.index_copy_.default",
    "aten.index_put": "aten.index_put_.default",
}
# Operands that kernels take with any strides; all others are copied together first.
_STRIDED = {
    "rope": ("x",),
    "norm_rope": ("x",),
    "masked_attention": ("q", "k", "v", "mask"),
}


@dataclass(frozen=True)
class TracedPlan:
    """Calls over buffers, and what the compiled function returns: arguments, sizes, None."""

    buffers: tuple[Scratch, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Any, ...]
    weights: Mapping[str, Weight]
    remarks: tuple[str, ...]
    sizes: TracedSizes
    plain: tuple[Call, ...]
    """The calls that are ATen ops one by one."""
    constants: Mapping[str, Tensor]


@dataclass
class _TracedLowering(Lowering):
    """See the module's text. ``mutable_inputs`` are what the program changes."""

    traced: Traced = None  # type: ignore[assignment]
    sizes: TracedSizes = field(default_factory=TracedSizes)
    layouts: dict[Node, Tensor] = field(default_factory=dict)
    several: dict[Node, list[Value]] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def lowered(self) -> TracedPlan:
        nodes = list(self.program.graph.nodes)
        self.order = {node: index for index, node in enumerate(nodes)}
        self.mode = fake_mode_of(self.program.graph)
        for node in nodes:
            if node.op == "placeholder":
                if isinstance(node.meta["val"], Tensor):
                    self._begin(node)
            elif node.op == "call_function":
                if isinstance(node.meta["val"], (int, SymInt, SymBool, SymFloat, bool, float)):
                    continue  # a size: read off the value itself where it is used
                self._step(node)
            elif node.op == "output":
                return self._finish(node)
        raise InternalError("a traced graph has no output")

    # Inputs and outputs.

    def _begin(self, node: Node) -> None:
        fake = m.tensor(node)
        shape = self._shape(fake)
        self.layouts[node] = fake
        if "weight" in node.meta:
            name = node.meta["weight"]
            self.values[node] = Value(name, shape, fake.dtype, WeightArgument(name))
        else:
            self._hold(node, self.input(node.meta["input"], fake.dtype, shape))

    def _finish(self, output: Node) -> TracedPlan:
        self.node = output
        self.op = Op("output", "output", "", None, {}, self.program.phase)
        # What is handed back of a value that an input took is the caller's memory, not ours.
        stored: dict[int, InputArgument] = {}
        for name, result in self.traced.mutated.items():
            node = self.traced.node(result)
            value = self.values[node]
            target = InputArgument(name)
            if value.argument != target:
                self.order[output] = len(self.order)
                self._store(value, target)
                if isinstance(value.argument, BufferArgument):
                    stored[value.argument.buffer] = target
        outputs = tuple(self._returned(item, stored) for item in self.traced.outputs)
        self._note_outputs(outputs)
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
        )

    def _store(self, value: Value, target: InputArgument) -> None:
        """The new value of an input that the program changes, where it is not there yet."""
        self.calls.append(
            Call(
                "aten.any_in_place",
                {
                    "op": ValueArgument("aten.copy_.default"),
                    "target": target,
                    "operands": ListArgument((value.argument,)),
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

    def _returned(self, item: Any, stored: Mapping[int, InputArgument]) -> Any:
        if not isinstance(item, Result):
            return item
        item = self.traced.node(item)
        value = item.meta["val"]
        if isinstance(value, (int, SymInt)):
            return self.sizes.extent(value)
        argument = self.values[item].argument
        if isinstance(argument, (BufferArgument, InputArgument)):
            argument = replace(argument, shape=self.values[item].shape)
        return _moved(argument, stored)

    def _note_outputs(self, outputs: tuple[Any, ...]) -> None:
        for item in outputs:
            if isinstance(item, get_args(Argument)):
                self._note_weight(item)

    # One node.

    def _step(self, node: Node) -> None:
        source = node.args[0] if node.args else None
        if m.is_op(node, "getitem"):
            self._item(node)
        elif m.op_name(node) in _VIEWS and isinstance(source, Node) and source in self.values:
            self._see(node, source)
        elif isinstance(source, Node) and m.op_name(node) in ("aten.clone", "aten.contiguous"):
            self._plain(node)
        elif m.op_name(node).startswith("glmc.") and self._rule(node) is not None:
            self._lower(node)
        elif m.op_name(node) in _CONSTANT and self._is_constant(node):
            self._compute(node)
        elif m.op_name(node) in _IN_PLACE:
            self._write(node)
        else:
            self._plain(node)

    def _rule(self, node: Node) -> object:
        return self.target.rules.get(m.op_name(node).removeprefix("glmc."))

    def _enter(self, node: Node) -> None:
        self.node, self.outputs = node, {}
        self.granted, self.overwritten = set(), set()
        self.op = Op(
            m.op_name(node),
            node.meta["id"],
            node.meta["module"],
            node.meta["layer"],
            {},
            self.program.phase,
        )

    def _item(self, node: Node) -> None:
        source, index = node.args[0], node.args[1]
        if node in self.values:
            return
        if isinstance(source, Node) and source in self.several and isinstance(index, int):
            self._hold(node, self.several[source][index])
            return
        raise InternalError(f"output {index} of {source} was not bound by its rule")

    @staticmethod
    def _is_constant(node: Node) -> bool:
        return not node.all_input_nodes and all(map(m.is_static, m.shape(node)))

    def _compute(self, node: Node) -> None:
        """A value without operands, computed here; the same values are one constant."""
        target: Any = node.target
        with torch.inference_mode(False), unset_fake_temporarily(), torch.no_grad():
            value = target(*node.args, **node.kwargs)
        key = f"constant {node.target} {node.args} {sorted(node.kwargs.items(), key=str)}"
        self.constants.setdefault(key, value)
        shape = self._shape(m.tensor(node))
        self.values[node] = Value(node.name, shape, value.dtype, WeightArgument(key))

    # Views.

    def _layout(self, node: Node) -> Tensor:
        """A fake tensor that lies as our value of ``node`` does."""
        known = self.layouts.get(node)
        if known is None:
            fake = m.tensor(node)
            with self.mode:
                known = torch.empty(fake.shape, dtype=fake.dtype, device=fake.device)
            self.layouts[node] = known
        return known

    def _see(self, node: Node, source: Node) -> None:
        name, rest = m.op_name(node), node.args[1:]
        given = [self._fake_argument(item) for item in rest]
        keywords = {key: self._fake_argument(item) for key, item in node.kwargs.items()}
        value = self.values[source]
        sizes = list(m.tensor(node).shape) if isinstance(node.meta["val"], Tensor) else []
        try:
            with self.mode:
                if name in ("aten.reshape", "aten.view", "aten.flatten", "aten.unflatten"):
                    layout: Any = self._layout(source).view(sizes)
                else:
                    layout = node.target(self._layout(source), *given, **keywords)  # type: ignore[operator]
        except (RuntimeError, ValueError):  # gaps: it must be copied together
            self._enter(node)
            value = self._together(value)
            layout = None
        if isinstance(layout, (tuple, list)):
            self._see_several(node, value, layout, rest)
            return
        shape = self._shape(m.tensor(node))
        whole = isinstance(value.argument, (BufferArgument, InputArgument))
        whole = whole and (layout is None or self._layout(source).is_contiguous())
        if layout is not None:
            self.layouts[node] = layout
        if whole and name in (*_RESHAPES, "aten.flatten", "aten.unflatten"):
            self._hold(node, replace(value, shape=shape))
            return
        if name in ("aten.reshape", "aten.view", "aten.flatten", "aten.unflatten"):
            view = ViewArgument(self._pinned(value), "aten.view.default", (list(shape),))
        else:
            if node.kwargs:
                raise LoweringError(f"no view of {name} with keywords", place=node.meta["id"])
            overload = str(node.target)
            parameters = tuple(self._parameter(item) for item in rest)
            view = ViewArgument(self._pinned(value), overload, parameters)
        self._hold(node, Value(value.name, shape, m.tensor(node).dtype, view))

    def _see_several(
        self, node: Node, value: Value, layouts: Sequence[Tensor], rest: Sequence[Any]
    ) -> None:
        parameters = tuple(self._parameter(item) for item in rest)
        self.several[node] = []
        for user in node.users:
            index = user.args[1]
            if isinstance(index, int):
                self.layouts[user] = layouts[index]
        for index, layout in enumerate(layouts):
            view = ViewArgument(self._pinned(value), str(node.target), parameters, index)
            self.several[node].append(Value(value.name, self._shape(layout), layout.dtype, view))

    def _note_weight(self, argument: Argument) -> None:
        storage = storage_of(argument)
        if not (isinstance(storage, WeightArgument) and storage.weight in self.constants):
            super()._note_weight(argument)

    def _pinned(self, value: Value) -> Argument:
        """The argument with the value's own shape, for views of it."""
        if isinstance(value.argument, (BufferArgument, InputArgument)):
            return replace(value.argument, shape=value.shape)
        return value.argument

    def _fake_argument(self, item: Any) -> Any:
        return torch.fx.node.map_arg(item, lambda node: node.meta["val"])

    def _parameter(self, item: Any) -> Any:
        """An argument of a view as plain data: numbers, extents and lists of them."""
        if isinstance(item, Node):
            item = item.meta["val"]
        if isinstance(item, SymInt):
            extent = self.sizes.extent(item)
            return extent if extent.moves else extent.constant
        if isinstance(item, (list, tuple)):
            return [self._parameter(one) for one in item]
        return item

    def _together(self, value: Value) -> Value:
        """A copy without gaps."""
        copy = self.temporary(f"{value.name}.together", value.shape, value.dtype)
        self.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    # Ops.

    def _ready(self, op: Op) -> Op:
        """Operands with gaps are copied together, but for kernels that take them as they lie."""
        strided = _STRIDED.get(op.name, ())
        arguments = {
            key: self._together(item)
            if isinstance(item, Value) and key not in strided and self._has_gaps(item)
            else item
            for key, item in op.arguments.items()
        }
        return replace(op, arguments=arguments)

    def _has_gaps(self, value: Value) -> bool:
        if isinstance(value.argument, ViewArgument):
            return True
        if isinstance(value.argument, InputArgument):
            node = next(
                node
                for node in self.program.placeholders()
                if node.meta.get("input") == value.argument.input
            )
            return not m.tensor(node).is_contiguous()
        return False

    def _argument(self, value: Any) -> Argument:
        if isinstance(value, Value) and isinstance(value.argument, (ViewArgument, ListArgument)):
            self._note_weight(value.argument)
            return value.argument
        if isinstance(value, ListArgument):
            for item in value.items:
                self._note_weight(item)
            return value
        return super()._argument(value)

    def _operand(self, item: Any) -> Argument:
        """An argument of an ATen op, tensors and sizes in lists included."""
        if isinstance(item, Node) and item in self.values:
            return self._argument(self.values[item])
        if isinstance(item, Node):
            item = item.meta["val"]
        if isinstance(item, SymInt):
            extent = self.sizes.extent(item)
            return ExtentArgument(extent) if extent.moves else ValueArgument(extent.constant)
        if isinstance(item, (SymFloat, SymBool)):
            raise LoweringError("a number that follows the sizes has no kernel", found=str(item))
        if isinstance(item, (list, tuple)):
            return ListArgument(tuple(self._operand(one) for one in item))
        return ValueArgument(item)

    def _plain(self, node: Node) -> None:
        """Any op, by its name: a launch and a pass over memory that no kernel of ours saved."""
        self._enter(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise LoweringError(
                f"{m.op_name(node) or node.target} has no kernel",
                place=f"{node.meta['id']} {node.meta.get('source') or ''}".strip(),
                expected="an op of torch that computes tensors",
                remedy="put torch.compiler.disable around it",
            )
        value = node.meta["val"]
        fakes = value if isinstance(value, (tuple, list)) else (value,)
        operands = ListArgument(tuple(self._operand(item) for item in node.args))
        keywords = ListArgument(tuple(self._operand(item) for item in node.kwargs.values()))
        results = []
        for index, fake in enumerate(fakes):
            if not isinstance(fake, Tensor):
                raise LoweringError(
                    f"{m.op_name(node)} gives something that is no tensor",
                    place=node.meta["id"],
                    found=type(fake).__name__,
                    remedy="put torch.compiler.disable around it",
                )
            results.append(self.result(index))
        written = {f"result_{index}": self._argument(one) for index, one in enumerate(results)}
        self.calls.append(
            Call(
                "aten.any",
                {
                    "op": ValueArgument(str(node.target)),
                    "operands": operands,
                    "keyword_names": ValueArgument(list(node.kwargs)),
                    "keyword_values": keywords,
                    "results": ListArgument(tuple(written.values())),
                },
                ("results",),
                False,
                node.meta["id"],
                m.op_name(node),
                node.meta["layer"],
                node.meta["module"],
            )
        )
        if isinstance(value, (tuple, list)):
            self.several[node] = results
        else:
            self._hold(node, results[0])

    def _write(self, node: Node) -> None:
        """An op that has a form which writes into its first operand: there, if nobody reads the
        old value later and it is ours to write, else into a copy."""
        self._enter(node)
        source = node.args[0]
        if not isinstance(source, Node):
            raise InternalError("an op that writes has no tensor to write to")
        target = self.mutable(self.values[source])
        self.calls.append(
            Call(
                "aten.any_in_place",
                {
                    "op": ValueArgument(_IN_PLACE[m.op_name(node)]),
                    "target": self._argument(target),
                    "operands": ListArgument(tuple(self._operand(arg) for arg in node.args[1:])),
                    "keyword_names": ValueArgument(list(node.kwargs)),
                    "keyword_values": ListArgument(
                        tuple(self._operand(arg) for arg in node.kwargs.values())
                    ),
                },
                ("target",),
                False,
                node.meta["id"],
                m.op_name(node),
                node.meta["layer"],
                node.meta["module"],
            )
        )
        if isinstance(target.argument, InputArgument):
            self.layouts[node] = self._layout(source)
        self._hold(node, target)

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

    def _shape(self, fake: Tensor) -> tuple[Extent, ...]:
        return tuple(self.sizes.extent(size) for size in fake.shape)


def _moved(argument: Argument, stored: Mapping[int, InputArgument]) -> Argument:
    """An argument over a buffer whose value an input took, over the input instead."""
    if isinstance(argument, ViewArgument):
        return replace(argument, source=_moved(argument.source, stored))
    if isinstance(argument, BufferArgument) and argument.buffer in stored:
        return replace(stored[argument.buffer], shape=argument.shape)
    return argument


def lower_traced(traced: Traced, target: Target, options: LoweringOptions) -> TracedPlan:
    """Lower a traced program after its passes; raises LoweringError."""
    lowering = _TracedLowering(traced.program, target, options, None)  # type: ignore[arg-type]
    lowering.traced = traced
    return lowering.lowered()
