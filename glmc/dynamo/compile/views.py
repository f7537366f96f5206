"""Non-contiguous values: views of what a traced program reads and makes.

A view costs nothing in a step: it is made when a call is bound. What can't be a view, and what a
kernel wants contiguous, is made contiguous by a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.dynamo.compile.sizes import TracedSizes
from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import OPS
from glmc.ir.program import Program
from glmc.ir.rewrite import fake_mode_of
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.node_values import NodeValues
from glmc.lowering.target import Op, Value
from glmc_runtime.format.plan import Argument, BufferArgument, InputArgument, ViewArgument

VIEWS = frozenset(
    """aten.reshape aten.permute aten.slice aten.select aten.unsqueeze aten.squeeze aten.expand
    aten.alias aten.detach aten.transpose aten.t aten.view aten.narrow aten.unbind aten.split
    aten.split_with_sizes aten.chunk aten.diagonal aten.unfold aten.view_as_real
    aten.view_as_complex aten.view.dtype aten.real aten.flatten
    aten.unflatten aten.movedim aten.lift_fresh
    """.split()
)
# Ops that give another shape of the same memory, where that is contiguous.
_RESHAPES = ("aten.reshape", "aten.view", "aten.unsqueeze", "aten.squeeze", "aten.alias")


class Views:
    """Lowers views, and knows the layout of each value.

    ``layouts`` has fake tensors of the layouts of our values, ``several`` the outputs of ops that
    have several.
    """

    def __init__(
        self, program: Program, emitter: CallEmitter, values: NodeValues, sizes: TracedSizes
    ) -> None:
        self.layouts: dict[Node, Tensor] = {}
        self.several: dict[Node, list[Value]] = {}
        self._emitter, self._values, self._sizes = emitter, values, sizes
        self._mode = fake_mode_of(program.graph)
        self._strided_inputs = {
            node.meta["input"]
            for node in program.placeholders()
            if "input" in node.meta
            and isinstance(node.meta["val"], Tensor)
            and not m.tensor(node).is_contiguous()
        }

    def lower_getitem(self, node: Node) -> None:
        """Bind one of the outputs of an op."""
        source, index = node.args[0], node.args[1]
        if node in self._values:
            return
        if isinstance(source, Node) and source in self.several and isinstance(index, int):
            self._values.bind(node, self.several[source][index])
            return
        raise InternalError(f"output {index} of {source} was not bound by its rule")

    def layout(self, node: Node) -> Tensor:
        """A fake tensor of the layout of our value of ``node``."""
        known = self.layouts.get(node)
        if known is None:
            fake = m.tensor(node)
            with self._mode:
                known = torch.empty(fake.shape, dtype=fake.dtype, device=fake.device)
            self.layouts[node] = known
        return known

    def lower_view(self, node: Node, source: Node) -> None:
        """Bind a view of ``source``: another shape of its memory, a view, or a copy of it."""
        name, rest = m.op_name(node), node.args[1:]
        fake_arguments = [self._fake_argument(item) for item in rest]
        keywords = {key: self._fake_argument(item) for key, item in node.kwargs.items()}
        value = self._values.of(source)
        sizes = list(m.tensor(node).shape) if isinstance(node.meta["val"], Tensor) else []
        try:
            with self._mode:
                if name in ("aten.reshape", "aten.view", "aten.flatten", "aten.unflatten"):
                    layout: Any = self.layout(source).view(sizes)
                else:
                    layout = node.target(self.layout(source), *fake_arguments, **keywords)  # type: ignore[operator]
        except (RuntimeError, ValueError):  # non-contiguous: it must be copied
            self._emitter.enter(node, name)
            value = self.contiguous(value)
            layout = None
        if isinstance(layout, (tuple, list)):
            self._lower_split_view(node, value, layout, rest)
            return
        shape = self._emitter.shape(m.tensor(node))
        whole = isinstance(value.argument, (BufferArgument, InputArgument))
        whole = whole and (layout is None or self.layout(source).is_contiguous())
        if layout is not None:
            self.layouts[node] = layout
        if whole and name in (*_RESHAPES, "aten.flatten", "aten.unflatten"):
            self._values.bind(node, replace(value, shape=shape))
            return
        if name in ("aten.reshape", "aten.view", "aten.flatten", "aten.unflatten"):
            view = ViewArgument(pinned(value), "aten.view.default", (list(shape),))
        else:
            if node.kwargs:
                raise LoweringError(f"no view of {name} with keywords", place=node.meta["id"])
            overload = str(node.target)
            parameters = tuple(self._parameter(item) for item in rest)
            view = ViewArgument(pinned(value), overload, parameters)
        self._values.bind(node, Value(value.name, shape, m.tensor(node).dtype, view))

    def _lower_split_view(
        self, node: Node, value: Value, layouts: Sequence[Tensor], rest: Sequence[Any]
    ) -> None:
        parameters = tuple(self._parameter(item) for item in rest)
        self.several[node] = []
        for user in node.users:
            index = user.args[1]
            if isinstance(index, int):
                self.layouts[user] = layouts[index]
        for index, layout in enumerate(layouts):
            view = ViewArgument(pinned(value), str(node.target), parameters, index)
            self.several[node].append(
                Value(value.name, self._emitter.shape(layout), layout.dtype, view)
            )

    def _fake_argument(self, item: Any) -> Any:
        return torch.fx.node.map_arg(item, lambda node: node.meta["val"])

    def _parameter(self, item: Any) -> Any:
        """An argument of a view as plain data: numbers, extents and lists of them."""
        if isinstance(item, Node):
            item = item.meta["val"]
        if isinstance(item, SymInt):
            extent = self._sizes.extent(item)
            return extent if extent.moves else extent.constant
        if isinstance(item, (list, tuple)):
            return [self._parameter(one) for one in item]
        return item

    def contiguous(self, value: Value) -> Value:
        """A contiguous copy."""
        copy = self._emitter.temporary(f"{value.name}.contiguous", value.shape, value.dtype)
        self._emitter.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    def ready(self, op: Op) -> Op:
        """Non-contiguous operands are copied, but for kernels that take any strides."""
        strided = OPS[op.name].facts.strided if op.name in OPS else ()
        arguments = {
            key: self.contiguous(item)
            if isinstance(item, Value) and key not in strided and self._is_non_contiguous(item)
            else item
            for key, item in op.arguments.items()
        }
        return replace(op, arguments=arguments)

    def _is_non_contiguous(self, value: Value) -> bool:
        if isinstance(value.argument, InputArgument):
            return value.argument.input in self._strided_inputs
        return isinstance(value.argument, ViewArgument)


def pinned(value: Value) -> Argument:
    """The argument with the value's own shape, for views of it."""
    if isinstance(value.argument, (BufferArgument, InputArgument)):
        return replace(value.argument, shape=value.shape)
    return value.argument
