"""ATen ops that no kernel of ours takes: called one by one, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Node
from torch.fx.node import map_arg

from glmc.dynamo.compile.sizes import TracedSizes
from glmc.dynamo.compile.views import Views, pinned
from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.in_place import whole
from glmc.lowering.node_values import NodeValues
from glmc.lowering.target import Value
from glmc_runtime.format.plan import (
    Argument,
    ExtentArgument,
    InputArgument,
    ListArgument,
    ValueArgument,
    WeightArgument,
    parts_of,
)

# Without operands these give the same in each step: they are computed once.
_CONSTANT = ("aten.arange", "aten.zeros", "aten.ones", "aten.full", "aten.scalar_tensor")
_IN_PLACE = {
    "aten.index_copy": "aten.index_copy_.default",
    "aten.index_put": "aten.index_put_.default",
}


class AtenCalls:
    """Lowers nodes to calls of ATen ops."""

    def __init__(
        self, emitter: CallEmitter, values: NodeValues, views: Views, sizes: TracedSizes
    ) -> None:
        self._emitter, self._values = emitter, values
        self._views, self._sizes = views, sizes

    def lower(self, node: Node) -> None:
        """A constant, a write in place, or any op into memory of its own. Raises LoweringError for
        what is no op of torch and for results that are no tensors."""
        if m.op_name(node) in _CONSTANT and _has_no_operands(node):
            self._fold_constant(node)
        elif m.op_name(node) in _IN_PLACE:
            self._lower_in_place(node)
        else:
            self.lower_out_of_place(node)

    def lower_out_of_place(self, node: Node) -> None:
        """Any op, by its name: a launch and a pass over memory that no kernel of ours saved."""
        self._emitter.enter(node, m.op_name(node))
        if not isinstance(node.target, torch._ops.OpOverload):
            raise LoweringError(
                f"{m.op_name(node) or node.target} has no kernel",
                place=f"{node.meta['id']} {node.meta.get('source') or ''}".strip(),
                expected="an op of torch that computes tensors",
                remedy="put torch.compiler.disable around it",
            )
        value = node.meta["val"]
        fakes = value if isinstance(value, (tuple, list)) else (value,)
        operands = self._operands(node.args)
        keywords = self._keywords(node)
        results: list[Value] = []
        for index, fake in enumerate(fakes):
            if not isinstance(fake, Tensor):
                raise LoweringError(
                    f"{m.op_name(node)} gives something that is no tensor",
                    place=node.meta["id"],
                    found=type(fake).__name__,
                    remedy="put torch.compiler.disable around it",
                )
            results.append(self._emitter.result(index))
        made = ListArgument(tuple(map(self._emitter.argument, results)))
        self._call("aten.any", str(node.target), operands, keywords, {"results": made})
        if isinstance(value, (tuple, list)):
            self._views.several[node] = results
        else:
            self._values.bind(node, results[0])

    def store(self, value: Value, target: InputArgument) -> None:
        """Copy ``value`` to an input of the program, as a call of the current node."""
        operands = ListArgument((pinned(value),))
        self._call("aten.any_in_place", "aten.copy_.default", operands, {}, {"target": target})

    def _lower_in_place(self, node: Node) -> None:
        """An op that has a form which writes into its first operand: there, if nobody reads the
        old value later and it is ours to write, else into a copy."""
        self._emitter.enter(node, m.op_name(node))
        source = node.args[0]
        if not isinstance(source, Node):
            raise InternalError("an op that writes has no tensor to write to")
        if self._reads_its_target(node, source):
            self.lower_out_of_place(node)
            return
        target = self._emitter.mutable(self._values.of(source))
        written = {"target": self._emitter.argument(target)}
        operands, op = self._operands(node.args[1:]), _IN_PLACE[m.op_name(node)]
        self._call("aten.any_in_place", op, operands, self._keywords(node), written)
        if isinstance(target.argument, InputArgument):
            self._views.layouts[node] = self._views.layout(source)
        self._values.bind(node, target)

    def _reads_its_target(self, node: Node, source: Node) -> bool:
        """Whether another operand is in the memory of ``source``: a write there would change what
        is still to be read."""
        operands: list[Node] = []
        map_arg((node.args[1:], dict(node.kwargs)), operands.append)
        tensors = [each for each in operands if isinstance(each.meta.get("val"), Tensor)]
        own = self._storages(source)
        return any(own & self._storages(each) for each in tensors)

    def _storages(self, node: Node) -> set[Argument]:
        return {whole(part) for part in parts_of(self._values.of(node).argument)}

    def _fold_constant(self, node: Node) -> None:
        """A value without operands, computed here; the same values are one constant."""
        target: Any = node.target
        with torch.inference_mode(False), unset_fake_temporarily(), torch.no_grad():
            value = target(*node.args, **node.kwargs)
        key = f"constant {node.target} {node.args} {sorted(node.kwargs.items(), key=str)}"
        self._emitter.constants.setdefault(key, value)
        shape = self._emitter.shape(m.tensor(node))
        self._values.put(node, Value(node.name, shape, value.dtype, WeightArgument(key)))

    def _call(
        self,
        function: str,
        op: str,
        operands: ListArgument,
        keywords: Mapping[str, Argument],
        written: Mapping[str, Argument],
    ) -> None:
        """A call of ``op`` by its name, for the current node."""
        arguments = {
            "op": ValueArgument(op),
            "operands": operands,
            "keyword_names": ValueArgument(list(keywords)),
            "keyword_values": ListArgument(tuple(keywords.values())),
            **written,
        }
        self._emitter.append(function, arguments, tuple(written))

    def _keywords(self, node: Node) -> dict[str, Argument]:
        return {name: self._operand(item) for name, item in node.kwargs.items()}

    def _operands(self, items: Iterable[Any]) -> ListArgument:
        return ListArgument(tuple(map(self._operand, items)))

    def _operand(self, item: Any) -> Argument:
        """An argument of an ATen op, tensors and sizes in lists included."""
        if isinstance(item, Node) and item in self._values:
            return self._emitter.argument(self._values.of(item))
        if isinstance(item, Node):
            item = item.meta["val"]
        if isinstance(item, SymInt):
            extent = self._sizes.extent(item)
            return ExtentArgument(extent) if extent.moves else ValueArgument(extent.constant)
        if isinstance(item, SymFloat):
            return ExtentArgument(self._sizes.number(item))
        if isinstance(item, SymBool):
            return ValueArgument(bool(item))  # asking guards it
        if isinstance(item, (list, tuple)):
            return self._operands(item)
        return ValueArgument(item)


def _has_no_operands(node: Node) -> bool:
    return not node.all_input_nodes and all(map(m.is_static, m.shape(node)))
