"""What several ranks compute for one value, as one graph of one process.

Each rank's call is a node of its own, named after it, and what they tell each other is a sum, or
tensors side by side: so a reproduction needs no ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from glmc.errors import InternalError
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, is_collective

aten = torch.ops.aten


def spread(
    node: Node, rank: int | None, known: Collection[Node], values: Sequence[Mapping[Node, Any]]
) -> tuple[Node, dict[Node, Any]]:
    """The node of a new graph that has the value of ``node`` on a rank, of the sum of all ranks
    where it is None; and the values of the placeholders that it is computed from.

    ``values`` are by rank; those of ``known`` nodes and of placeholders are taken from there.
    """
    made = _Spread(set(known) - {node}, values)
    end = made.sum(node) if rank is None else made.on(node, rank)
    return end, made.starts


class _Spread:
    def __init__(self, known: set[Node], values: Sequence[Mapping[Node, Any]]) -> None:
        self.known, self.values = known, values
        self.graph = Graph()
        self.starts: dict[Node, Any] = {}
        self._made: dict[tuple[Node, int], Node] = {}

    def sum(self, node: Node) -> Node:
        return self._sum(node, [self.on(node, rank) for rank in range(len(self.values))])

    def on(self, node: Node, rank: int) -> Node:
        """The new node of ``node`` on a rank."""
        if (node, rank) not in self._made:
            self._made[node, rank] = self._make(node, rank)
        return self._made[node, rank]

    def _make(self, node: Node, rank: int) -> Node:
        if node in self.known or node.op == "placeholder":
            return self._start(node, rank)
        op = semantic_op(node.target)
        if op is None or not is_collective(op.name):
            copy = self.graph.node_copy(node, lambda operand: self.on(operand, rank))
            return self._named(copy, node, rank)
        operand = node.all_input_nodes[0]
        parts = [self.on(operand, each) for each in range(len(self.values))]
        if op is ALL_REDUCE:
            return self._sum(node, parts)
        if op is ALL_GATHER:
            axis, size = node.args[1:]
            joined = self._call(node, aten.cat.default, parts, axis)
            return self._call(node, aten.slice.Tensor, joined, axis, 0, size)
        if op is REDUCE_SCATTER:
            axis, ranks = node.args[1:]
            total = self._sum(node, parts)
            size = total.meta["val"].shape[axis] // ranks
            return self._call(node, aten.slice.Tensor, total, axis, rank * size, (rank + 1) * size)
        raise InternalError("a collective that can't be spelled out", found=op.name)

    def _start(self, node: Node, rank: int) -> Node:
        """A placeholder; one for all ranks that have the same value."""
        value = self.values[rank][node]
        for other in range(rank):
            made = self._made.get((node, other))
            if made is not None and _same(self.starts[made], value):
                return made
        start = self._named(self.graph.placeholder(node.name), node, rank)
        self.starts[start] = value
        return start

    def _sum(self, node: Node, parts: Sequence[Node]) -> Node:
        """Pair by pair, as the reference of all_reduce adds."""
        level = list(parts)
        while len(level) > 1:
            pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
            level = [
                self._call(node, aten.add.Tensor, *pair) if len(pair) == 2 else pair[0]
                for pair in pairs
            ]
        return level[0]

    def _call(self, node: Node, target: Callable[..., Any], *arguments: Any) -> Node:
        made = self.graph.call_function(target, arguments)
        made.meta = {key: item for key, item in node.meta.items() if key != "val"}
        fakes = torch.fx.node.map_arg(arguments, lambda operand: operand.meta["val"])
        made.meta["val"] = target(*fakes)
        return made

    def _named(self, made: Node, node: Node, rank: int) -> Node:
        made.meta = {**node.meta, "id": f"{node.meta['id']} on rank {rank}"}
        return made


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and bool(((first == second) | (first != first) & (second != second)).all())
    return first is second
