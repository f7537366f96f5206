"""shard: the paged graph becomes the graph of one rank among several.

Before: every value whole. After: each rank computes its part of attention (by heads), of dense and
routed experts (by columns, or by expert), of the embedding and of the head (by vocabulary), with
the same graph; what differs between ranks is their weights and caches alone. Where ranks have
summands of a value ``glmc.all_reduce`` adds them up, and the logits are joined by
``glmc.all_gather``. Sizes that do not divide are filled up with zeros: heads of nothing, columns of
nothing, experts that no token chooses, rows of the vocabulary that the join leaves out.

How each op is cut stands in its facts (:mod:`glmc.ir.ops.facts`); nothing else is read. Reordered:
sums over what is cut are added up in another order.

Safe where every reader of a cut value knows how it is cut; a reader of the whole would make it
unsafe, and then the region stays whole on each rank. Pays where the weights of one card do not fit,
or where reading them is what a step waits for; each ``all_reduce`` costs a message of the size of
the hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.identity import SUMMAND, deal, hand_down
from glmc.ir.layout import Layout
from glmc.ir.ops import OPS, Numerics, semantic_op
from glmc.ir.ops.collectives import ALL_GATHER, ALL_REDUCE
from glmc.ir.ops.facts import Cut, by_name
from glmc.ir.program import Cache, Program
from glmc.ir.rebuild import Rebuilder
from glmc.ir.recipe import ByRank, Dealt, First, Weight
from glmc.passes.base import PassResult, match_at, near_miss
from glmc.patterns.per_token import place
from glmc.patterns.sharding import (
    Dealing,
    Place,
    arguments_of,
    deal_columns,
    deal_sum,
    summing,
    whole_reads,
)

NAME = "shard"
NUMERICS = Numerics.REORDERED


@dataclass(frozen=True)
class Shard:
    """See the module's text. ``run`` replaces the program's graph, weights and symbols.

    ``shares``: into how many parts each sum that is cut is dealt, whatever the number of ranks,
    which divides it: a rank has neighbours. Where sizes do not divide, one rank has zeros between
    them too. None: a part for each rank.
    Raises LoweringError where a weight is cut for one reader and whole for another, and for a
    vocabulary of fewer tokens than ranks.
    """

    ranks: int
    expert_parallel: bool = False
    multiple: int = 1
    shares: int | None = None
    name: str = NAME
    numerics: Numerics = NUMERICS

    def run(self, program: Program) -> PassResult:
        after, result = sharded(
            program, self.ranks, self.expert_parallel, self.multiple, self.shares
        )
        program.graph_module, program.ranks = after.graph_module, after.ranks
        program.weights, program.symbols = after.weights, after.symbols
        return result


def sharded(
    program: Program,
    ranks: int,
    expert_parallel: bool = False,
    multiple: int = 1,
    shares: int | None = None,
) -> tuple[Program, PassResult]:
    """The program of one rank of several, and what was cut; ``program`` itself stays."""
    head, result = None if ranks == 1 else _head(program), PassResult()
    dealing, misses = _dealt(program, Dealing(ranks, expert_parallel, multiple), head)
    if shares is not None and _cut_otherwise(dealing, shares):
        merged = Dealing(ranks, expert_parallel, multiple, shares // ranks)
        dealing, misses = _dealt(program, merged, head)
    elif ranks == 1:
        return program, result
    _require_known(dealing)
    # What cuts a whole value by its weight ends no region, and is a part of another.
    whole = (node for node in reversed(misses) if node not in dealing.calls and misses[node].near)
    result.near_misses = [near_miss(NAME, node, misses[node]) for node in whole]
    after = _Rebuild(program, dealing, head).run()
    collectives = [node for node in after.graph.nodes if m.op_name(node) in _COLLECTIVES]
    result.matches = [match_at(node) for node in collectives]
    result.detail = _detail(dealing, collectives)
    return after, result


def _dealt(
    program: Program, dealing: Dealing, head: Node | None
) -> tuple[Dealing, dict[Node, m.NoMatchError]]:
    """How all regions are dealt, and why those that may end at a node are not."""
    misses: dict[Node, m.NoMatchError] = {}
    for node in reversed(list(program.graph.nodes)):
        if node in dealing.calls or summing(node, dealing) is None:
            continue
        try:
            dealing = deal_sum(node, dealing)
        except m.NoMatchError as miss:
            misses[node] = miss
    if head is not None:
        dealing = deal_columns(head, dealing)
        _require_in_order(head, dealing)
    return dealing, misses


def _cut_otherwise(dealing: Dealing, shares: int) -> bool:
    """Whether ``shares`` cut a sum elsewhere than so many equal parts of each rank's own do. Where
    one rank has zeros at the end, they must be there."""
    return any(
        each.runs(rank) != each.merging(shares).runs(rank) or (each.ranks == 1 and each.padded)
        for each in dealing.sums
        for rank in range(each.ranks)
    )


_COLLECTIVES = tuple(f"glmc.{each.name}" for each in (ALL_REDUCE, ALL_GATHER))
_COLLECTIVE_CALLS = (ALL_REDUCE.overload, ALL_GATHER.overload)


def _head(program: Program) -> Node | None:
    """The op whose result is the output of the program, where its weight can be cut alone."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    head = output.args[0][0]
    op = semantic_op(head.target)
    cuts = () if op is None else op.facts.shardings
    return head if any(each.name == "column" for each in cuts) else None


def _require_in_order(head: Node, dealing: Dealing) -> None:
    """Parts are joined rank by rank. Of fewer entries than ranks some between have none."""
    _, layout = dealing.places[head]
    if layout.entries < layout.ranks:
        raise LoweringError(
            f"a vocabulary of {layout.entries} can't be dealt to {layout.ranks} ranks",
            place=place(head),
            expected="a token for each rank at least",
            found=f"--tensor-parallel {layout.ranks}",
            remedy=f"--tensor-parallel {layout.entries} or fewer",
        )


def _require_known(dealing: Dealing) -> None:
    for reader, value in whole_reads(dealing):
        if reader.op == "output":
            continue
        raise LoweringError(
            f"'{value.meta.get('weight') or value.meta.get('input')}' can't be dealt to ranks",
            place=place(reader),
            expected="that all its readers cut it alike",
            found=f"{m.op_name(reader)} reads it whole",
            remedy="report the model: untied copies of such a weight are not made yet",
        )


def _detail(dealing: Dealing, collectives: list[Node]) -> dict[str, Any]:
    """Facts for the report: how ops are cut, the collectives, and what was filled up."""
    ways: dict[str, int] = {}
    for node, way in dealing.calls.items():
        name = f"{m.op_name(node).removeprefix('glmc.')} by {way.name}"
        ways[name] = ways.get(name, 0) + 1
    called: dict[str, int] = {}
    for node in collectives:
        name = m.op_name(node).removeprefix("glmc.")
        called[name] = called.get(name, 0) + 1
    padded = {
        value.meta["weight"]: f"{layout.entries} to {layout.local} on each of {layout.ranks}"
        for value, (_, layout) in dealing.places.items()
        if "weight" in value.meta and layout.padded
    }
    return {"cut": ways, "collectives": called, "padded": padded}


class _Rebuild:
    """Rebuilds one program as a rank has it."""

    def __init__(self, program: Program, dealing: Dealing, head: Node | None) -> None:
        self.old, self.dealing, self.head = program, dealing, head
        weights = dict(program.weights)
        for node in program.placeholders():
            if "weight" in node.meta:
                name = node.meta["weight"]
                weights[name] = self._weight(node, weights[name])
        self.rebuilder = Rebuilder(replace(program, weights=weights), NAME)
        self.firsts: dict[str, Node] = {}

    def _weight(self, node: Node, weight: Weight) -> Weight:
        if node in self.dealing.first:
            return replace(weight, recipe=First(weight.recipe, weight.shape))
        if node not in self.dealing.places:
            return weight
        axis, layout = self.dealing.places[node]
        shape = list(weight.shape)
        shape[axis] = layout.local
        return replace(weight, shape=tuple(shape), recipe=Dealt(weight.recipe, axis, layout))

    def run(self) -> Program:
        rebuilder = self.rebuilder
        for old in self.old.inputs():
            if "cache" in old.meta:
                rebuilder.values[old] = self._cache(old)
            else:
                rebuilder.values[old] = rebuilder.step_input(old.meta["input"], {})
        rebuilder.weights()
        self._add_firsts()
        for node in self.old.graph.nodes:
            if node.op == "call_function":
                rebuilder.values[node] = self._repeat(node)
                self._note_share(node, rebuilder.values[node])
        output = next(node for node in reversed(self.old.graph.nodes) if node.op == "output")
        rebuilder.output(rebuilder.new(output.args[0]))
        made = rebuilder.program_of(self.old.phase)
        return replace(made, ranks=self.dealing.ranks)

    def _cache(self, old: Node) -> Node:
        if old not in self.dealing.places:
            return self.rebuilder.cache_like(old)
        axis, layout = self.dealing.places[old]
        cache: Cache = old.meta["cache"]
        shape = list(cache.shape)
        # A cache is [blocks, first, block_size, *rest]: the tokens of a block stand in between.
        shape[axis - 1 - (axis - 1 > cache.block_dimension)] = layout.local
        fake = m.tensor(old)
        size = int(fake.shape[1 + cache.block_dimension])
        made = self.rebuilder.cache(replace(cache, shape=tuple(shape)), size, fake.dtype)
        made.meta["dealt"] = axis, layout
        return made

    def _add_firsts(self) -> None:
        """Weights that say with which entry of a cut dimension the entries of a rank begin."""
        for node, way in self.dealing.calls.items():
            if way.op is None:
                continue
            layout = self._dealt(node)
            name = _first_name(layout)
            if name in self.firsts:
                continue
            weight = Weight(name, (1,), torch.int64, ByRank(_starts(layout)))
            self.firsts[name] = self.rebuilder.weight(weight)

    def _dealt(self, node: Node) -> Layout:
        """The layout of the dimension that the indices of ``node`` count."""
        op = semantic_op(node.target)
        assert op is not None
        operands = dict(zip(op.argument_names, node.args, strict=True))
        way = self.dealing.calls[node]
        key = next(key for key, how in way.operands.items() if how == Cut(0))
        return self.dealing.places[operands[key]][1]  # type: ignore[index]

    def _repeat(self, node: Node) -> Node:
        rebuilder, way = self.rebuilder, self.dealing.calls.get(node)
        target: Any = node.target
        arguments = rebuilder.new(node.args)
        if way is None:
            cut = self.dealing.places.get(node)
            if cut is not None and m.is_op(node, "aten.reshape"):
                arguments = (arguments[0], _sizes(arguments[1], cut))
            return rebuilder.call(
                target, arguments, node, keywords=node.kwargs, **self._dealt_meta(node)
            )
        op = semantic_op(target)
        assert op is not None
        named = dict(zip(op.argument_names, arguments, strict=True))
        for key, sections in way.divided.items():
            whole = arguments_of(node)
            named[key] = self.dealing.layout(by_name(sections, whole)).local
        passes = (*node.meta.get("passes", ()), NAME)
        if way.op is not None:
            named["first"] = self.firsts[_first_name(self._dealt(node))]
            target = OPS[way.op].overload
        changes = {"passes": passes, **self._dealt_meta(node)}
        call = rebuilder.call(target, tuple(named.values()), node, **changes)
        if node is self.head:
            return self._joined(node, call)
        if node not in self.dealing.summands:
            return call
        call.meta["dealt"] = SUMMAND
        if self.dealing.ranks == 1 or any((user, node) in self.dealing.read for user in node.users):
            return call
        name = f"{node.meta['id']}.{ALL_REDUCE.name}"
        return rebuilder.call(ALL_REDUCE.overload, (call,), node, id=name, passes=passes)

    def _joined(self, node: Node, call: Node) -> Node:
        axis, layout = self.dealing.places[node]
        name, passes = f"{node.meta['id']}.{ALL_GATHER.name}", call.meta["passes"]
        arguments = (call, axis, layout.entries)
        return self.rebuilder.call(ALL_GATHER.overload, arguments, node, id=name, passes=passes)

    def _note_share(self, node: Node, made: Node) -> None:
        """What stands for ``node`` may be a share of it, or be made of shares by a collective."""
        if made.target in _COLLECTIVE_CALLS:
            (shared,) = made.all_input_nodes
            hand_down(node, shared)
            deal(shared, shared.meta["dealt"])
        elif "dealt" in made.meta and not self._whole(node):
            deal(made, made.meta["dealt"])

    def _whole(self, node: Node) -> bool:
        """Whether the one rank there is has all of a value, and nothing else."""
        cut = self.dealing.places.get(node)
        return self.dealing.ranks == 1 and (cut is None or cut[1].runs(0) == ((0, cut[1].entries),))

    def _dealt_meta(self, node: Node) -> dict[str, Any]:
        """What a proof reads: how the value of ``node`` is cut."""
        dealt = self.dealing.places.get(node)
        return {} if dealt is None else {"dealt": dealt}


def _first_name(layout: Layout) -> str:
    return f"first_of_{layout.entries}"


def _starts(layout: Layout) -> tuple[int, ...]:
    """The first entry of each rank; of one that has none the number of all, which no index is."""
    starts = (layout.runs(rank)[0].start for rank in range(layout.ranks))
    return tuple(layout.entries if start is None else start for start in starts)


def _sizes(sizes: Any, cut: Place) -> list[Any]:
    axis, layout = cut
    return [layout.local if at == axis else size for at, size in enumerate(sizes)]
