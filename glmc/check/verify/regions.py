"""The change of a pass, cut into regions that can be run side by side on the same values.

Two programs, before and after a pass, share most of their nodes. Where they differ, connected
nodes make a region: what was taken out and what was put there. Both halves are run on the same
values, so a difference at a region's end is that region's own and no other's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import networkx
import torch
from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.program import Program


@dataclass(frozen=True)
class Pair:
    """Two nodes that must have the same value: one before the pass, one after it."""

    before: Node
    after: Node


@dataclass(frozen=True)
class Region:
    """``removed`` nodes of the program before and ``added`` nodes of the one after, in order.

    ``ends`` are compared. ``starts`` are the values that both halves begin with: an ``after`` of
    them may be the end of another region. A node that several regions need is in ``removed`` of
    each. Without nodes, the pass only let a user read something else.
    """

    removed: tuple[Node, ...]
    added: tuple[Node, ...]
    starts: tuple[Pair, ...]
    ends: tuple[Pair, ...]

    @property
    def halves(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        return self.removed, self.added

    @property
    def layer(self) -> int | None:
        layer = self.ends[0].after.meta.get("layer")
        return layer if isinstance(layer, int) else None

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all nodes and of their origins."""
        nodes = (*self.removed, *self.added, *(end.after for end in self.ends))
        return frozenset(
            name for node in nodes for name in (node.meta["id"], *node.meta.get("origins", ()))
        )


def regions(before: Program, after: Program) -> tuple[Region, ...]:
    """The regions in the order of the program after; no graph is changed.

    Nodes of both programs correspond when op, id, passes and constants agree, repeated ones in
    their order. ``after`` must stand as its pass left it: what the rewriter says it replaced is
    compared too, which keeps regions small.
    """
    same = _corresponding(before, after)
    pairs = _pairs(before, after, same)
    reads_as = {pair.after: pair.before for pair in reversed(pairs)} | same
    place = {node: number for number, node in enumerate(after.graph.nodes)}
    groups: dict[Hashable, list[Node]] = {}
    group_of: dict[Node, Hashable] = {}
    for number, nodes in enumerate(networkx.connected_components(_added(after, same, reads_as))):
        groups[number] = sorted(nodes, key=place.__getitem__)
        group_of.update(dict.fromkeys(nodes, number))
    ends: dict[Hashable, dict[Pair, None]] = defaultdict(dict)
    for pair in pairs:
        ends[group_of.get(pair.after, pair)][pair] = None
    still = {old: new for new, old in same.items()}
    order = {node: number for number, node in enumerate(before.graph.nodes)}
    unsorted = [
        _region(groups.get(group, []), tuple(pairs_of), reads_as, still, order)
        for group, pairs_of in ends.items()
    ]
    return tuple(sorted(unsorted, key=lambda region: place[region.ends[0].after]))


def _region(
    added: list[Node],
    ends: tuple[Pair, ...],
    reads_as: Mapping[Node, Node],
    still: Mapping[Node, Node],
    order: Mapping[Node, int],
) -> Region:
    """``still`` maps nodes of the program before to what corresponds to them after."""
    inside: set[Node] = set(added)
    starts: dict[Node, Pair] = {}
    for node in added:
        for operand in node.all_input_nodes:
            if operand in reads_as and (operand not in inside or operand.op == "placeholder"):
                starts[operand] = Pair(reads_as[operand], operand)
    if not added:  # the users were only led to other values: of both programs, or new weights
        both = set(still.values())
        read = [end.after for end in ends if end.after in both or end.after.op != "placeholder"]
        starts = {node: Pair(reads_as[node], node) for node in read}
    known = {pair.before for pair in starts.values()}
    removed: set[Node] = set()
    stack = [end.before for end in ends]
    while stack:
        node = stack.pop()
        if node in removed or node in known or node.op == "placeholder":
            continue
        if node in still:
            known.add(node)
            starts[still[node]] = Pair(node, still[node])
            continue
        removed.add(node)
        stack.extend(node.all_input_nodes)
    return Region(
        tuple(sorted(removed, key=order.__getitem__)), tuple(added), tuple(starts.values()), ends
    )


def _added(
    after: Program, same: Mapping[Node, Node], reads_as: Mapping[Node, Node]
) -> networkx.Graph[Node]:
    """The nodes that only the program after has, joined where one needs another's own value."""
    graph: networkx.Graph[Node] = networkx.Graph()
    for node in after.graph.nodes:
        if node in same or node.op in ("placeholder", "output"):
            continue
        graph.add_node(node)
        for operand in node.all_input_nodes:
            if operand not in reads_as and operand.op != "placeholder":
                graph.add_edge(operand, node)
    return graph


def _pairs(before: Program, after: Program, same: Mapping[Node, Node]) -> list[Pair]:
    """What must be equal: where a kept node reads another, and what a rewrite replaced."""
    pairs = list(_rewired(same))
    olds = {node.name: node for node in before.graph.nodes}
    news = {node.name: node for node in after.graph.nodes}
    for new, old in after.replaced.items():
        if new in news and old in olds and same.get(news[new]) is not olds[old]:
            pairs.append(Pair(olds[old], news[new]))
    return list(dict.fromkeys(pairs))


def _rewired(same: Mapping[Node, Node]) -> Iterator[Pair]:
    for new, old in same.items():
        for source, now in zip(_operands(old), _operands(new), strict=True):
            if same.get(now) is not source:
                yield Pair(source, now)


def _operands(node: Node) -> list[Node]:
    """Every operand in its place, repeated ones too."""
    operands: list[Node] = []
    torch.fx.node.map_arg((node.args, dict(node.kwargs)), operands.append)
    return operands


def _corresponding(before: Program, after: Program) -> dict[Node, Node]:
    olds, news = _by_key(before), _by_key(after)
    return {
        new: old
        for key, group in news.items()
        if len(group) == len(olds.get(key, ()))
        for new, old in zip(group, olds[key], strict=True)
    }


def _by_key(program: Program) -> dict[Hashable, list[Node]]:
    groups: dict[Hashable, list[Node]] = defaultdict(list)
    for node in program.graph.nodes:
        groups[_key(node, program)].append(node)
    return groups


def _key(node: Node, program: Program) -> Hashable:
    meta = node.meta
    if node.op == "placeholder":
        weight = program.weight_of(node)
        return ("input", meta.get("input")) if weight is None else ("weight", weight)
    constants: list[Hashable] = []

    def note(item: Any) -> Any:
        constants.append("node" if isinstance(item, Node) else (type(item), repr(item)))
        return item

    torch.fx.node.map_aggregate((node.args, dict(node.kwargs)), note)
    if node.op == "output":
        return ("output", len(constants))
    return (op_name(node), meta["id"], tuple(meta.get("passes", ())), tuple(constants))
