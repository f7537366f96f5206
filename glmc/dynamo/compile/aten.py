"""ATen ops that no kernel of ours takes: called one by one, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Node

from glmc.dynamo.compile.views import ViewLowering
from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.lowering.target import Value
from glmc_runtime.format.plan import (
    Argument,
    Call,
    ExtentArgument,
    InputArgument,
    ListArgument,
    ValueArgument,
    ViewArgument,
)

IN_PLACE = {
    "aten.index_copy": "aten.index_copy_.default",
    "aten.index_put": "aten.index_put_.default",
}
"""Forms that write into their first operand."""


@dataclass
class AtenLowering(ViewLowering):
    """The part of a traced lowering that calls torch itself."""

    def _argument(self, value: Any) -> Argument:
        if isinstance(value, Value) and isinstance(value.argument, (ViewArgument, ListArgument)):
            self._use_weight(value.argument)
            return value.argument
        if isinstance(value, ListArgument):
            for item in value.items:
                self._use_weight(item)
            return value
        return super()._argument(value)

    def _operand(self, item: Any) -> Argument:
        """An argument of an ATen op, tensors and sizes in lists included."""
        if isinstance(item, Node) and item in self.values:
            return self._argument(self.value_of(item))
        if isinstance(item, Node):
            item = item.meta["val"]
        if isinstance(item, SymInt):
            extent = self.sizes.extent(item)
            return ExtentArgument(extent) if extent.moves else ValueArgument(extent.constant)
        if isinstance(item, SymFloat):
            return ExtentArgument(self.sizes.number(item))
        if isinstance(item, SymBool):
            return ValueArgument(bool(item))  # asking guards it
        if isinstance(item, (list, tuple)):
            return ListArgument(tuple(self._operand(one) for one in item))
        return ValueArgument(item)

    def _operands(self, items: Iterable[Any]) -> ListArgument:
        return ListArgument(tuple(map(self._operand, items)))

    def _lower_aten(self, node: Node) -> None:
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
        operands = self._operands(node.args), self._operands(node.kwargs.values())
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
        made = ListArgument(tuple(self._argument(each) for each in results))
        self._call_aten("aten.any", node, str(node.target), operands, {"results": made})
        if isinstance(value, (tuple, list)):
            self.several[node] = results
        else:
            self._bind_value(node, results[0])

    def _lower_in_place(self, node: Node) -> None:
        """An op that has a form which writes into its first operand: there, if nobody reads the
        old value later and it is ours to write, else into a copy."""
        self._enter(node)
        source = node.args[0]
        if not isinstance(source, Node):
            raise InternalError("an op that writes has no tensor to write to")
        target = self.mutable(self.value_of(source))
        written = {"target": self._argument(target)}
        name = IN_PLACE[m.op_name(node)]
        operands = self._operands(node.args[1:]), self._operands(node.kwargs.values())
        self._call_aten("aten.any_in_place", node, name, operands, written)
        if isinstance(target.argument, InputArgument):
            self.layouts[node] = self._layout(source)
        self._bind_value(node, target)

    def _call_aten(
        self,
        function: str,
        node: Node,
        op: str,
        operands: tuple[ListArgument, ListArgument],
        written: Mapping[str, Argument],
    ) -> None:
        """A call of ``op`` by its name with positional ``operands`` and those by keyword."""
        self.calls.append(
            Call(
                function,
                {
                    "op": ValueArgument(op),
                    "operands": operands[0],
                    "keyword_names": ValueArgument(list(node.kwargs)),
                    "keyword_values": operands[1],
                    **written,
                },
                tuple(written),
                False,
                node.meta["id"],
                m.op_name(node),
                node.meta["layer"],
                node.meta["module"],
            )
        )
