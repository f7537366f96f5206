"""A program that is run node by node, on values that others may put in place of what it computes.

Values of operands that no later node reads are dropped, so that the activations of a model are
never all in memory.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from glmc.check.verify.execution import BoundInputs, call_on_ranks
from glmc.errors import InternalError
from glmc.ir.ops import semantic_op
from glmc.ir.ops.attention import Attend
from glmc.ir.program import Program

Values = Mapping[Node, Any]


class Chain:
    """The values of a program on each rank, as far as they are known and still read. Those of
    ``given`` nodes are put in; others, which are views of them, are computed when they are read."""

    def __init__(
        self, program: Program, bound: Sequence[BoundInputs], given: Collection[Node]
    ) -> None:
        self._own: list[dict[Node, Any]] = [{} for _ in bound]
        self._given = given
        self.values: list[Values] = [
            ChainMap(own, inputs)  # type: ignore[arg-type]
            for own, inputs in zip(self._own, bound, strict=True)
        ]
        self._left = Counter(
            operand for node in program.graph.nodes for operand in node.all_input_nodes
        )

    def compute(self, node: Node) -> list[Any]:
        """What the node makes of the values of its operands, on each rank."""
        self._ready(node)
        return call_on_ranks(node, self.values)

    def compute_exact(self, node: Node) -> list[Any]:
        """The same in float32 where the operands are less; nothing is rounded."""
        self._ready(node)
        return call_on_ranks(node, [_Exact(each) for each in self.values])

    def compute_attending(self, node: Node, attend: Attend) -> list[Any]:
        """The same of an attention, which rounds where ``attend`` does."""
        self._ready(node)
        op = semantic_op(node.target)
        assert op is not None  # see attends
        arguments = [map_arg(node.args, each.__getitem__) for each in self.values]
        return [op.reference(*each, attend=attend) for each in arguments]

    def value(self, node: Node) -> Any:
        """The value of a node that is still held, on the first rank."""
        self._make(node)
        return self.values[0][node]

    def put(self, node: Node, values: Sequence[Any]) -> None:
        """The values of a node on all ranks."""
        for rank, value in enumerate(values):
            self.put_on(rank, node, value)

    def put_on(self, rank: int, node: Node, value: Any) -> None:
        """The value of a node on one rank."""
        self._own[rank][node] = value

    def drop_operands(self, node: Node) -> None:
        """The node is done with: what it was the last to read goes."""
        for operand in node.all_input_nodes:
            self._left[operand] -= 1
            if not self._left[operand]:
                for own in self._own:
                    own.pop(operand, None)

    def _ready(self, node: Node) -> None:
        for operand in node.all_input_nodes:
            self._make(operand)

    def _make(self, node: Node) -> None:
        if node.op != "call_function" or node in self._own[0]:
            return
        if node in self._given:
            raise InternalError(
                "a value is read before the calls for it are done", place=str(node.meta.get("id"))
            )
        self.put(node, self.compute(node))
        self.drop_operands(node)


def attends(node: Node) -> bool:
    """Whether a node is an attention, which others round at other places than its reference."""
    op = semantic_op(node.target)
    return op is not None and "attend" in signature(op.reference).parameters


class _Exact(Mapping[Node, Any]):
    """The values in float32."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __getitem__(self, node: Node) -> Any:
        value = self._values[node]
        low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if low else value

    def __iter__(self) -> Iterator[Node]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
