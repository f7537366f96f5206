"""shard: all ranks together compute what one did.

The ranks run in lockstep in this process, each node on what it must be given: the whole values of
the program before, dealt as the node's operands say they are, with caches dealt likewise and each
rank's own weights. So a difference is the node's own. A value that is cut is compared rank by rank,
and what fills it up must be zeros. Of a value of which each rank has a summand the sum is compared,
at the tolerance of the op that was cut; likewise the ``all_reduce`` that adds it up. Where somebody
reads such a summand as if it were the whole, it must be the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from glmc.check.verify.cases import Case
from glmc.check.verify.execution import BoundInputs, values_of
from glmc.check.verify.judge import Expected, Judge
from glmc.check.verify.paged import block_size, bound_on_ranks, random_caches
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.weights import ModelWeights
from glmc.ir import match as m
from glmc.ir.identity import SUMMAND
from glmc.ir.layout import Layout
from glmc.ir.ops import OPS, semantic_op
from glmc.ir.ops.collectives import ALL_REDUCE, REDUCE_SCATTER, is_collective
from glmc.ir.packed import layouts
from glmc.ir.program import Program
from glmc.ir.tolerance import tolerance_of_call
from glmc.pipeline.records import PassRecord
from glmc.weights.evaluate import entries_of

_SUMS = (ALL_REDUCE, REDUCE_SCATTER)


def verify_shard(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """``before`` is the paged program, ``after`` that of one rank of several.

    Every case runs twice: all tokens at once, and the second half after a filled cache.
    """
    judge, known = Judge(record), _counterparts(before, after)
    used = [case for case in cases if case.decided]
    for case in used:
        altered = weights.altered(case.alteration)
        for packed in layouts(case.token_ids, block_size(before)):
            step, caches = packed.inputs(), random_caches(before, packed)
            bound = BoundInputs(before, {**step, **caches}, altered.table(before))
            values = values_of(before, bound, set(known.values()))
            expected = {
                new: expectation
                for new, old in known.items()
                for expectation in _expected(new, old, values[old], after.ranks)
            }
            inputs = [{**step, **_caches(after, caches, rank)} for rank in range(after.ranks)]
            judge.run(after, bound_on_ranks(after, inputs, altered), expected, case)
    return judge.verdict(len(used))


def _counterparts(before: Program, after: Program) -> dict[Node, Node]:
    """Nodes after to the nodes before that have the same value, whole; of what the ranks tell each
    other that is what they tell each other of."""
    olds: dict[tuple[str, str], Node] = {}
    for node in before.graph.nodes:
        if node.op == "call_function":
            for name in _names(node):
                olds[node.meta["id"], name] = node
    known: dict[Node, Node] = {}
    for node in after.graph.nodes:
        if node.op != "call_function":
            continue
        old = olds.get((node.meta["id"], m.op_name(node)))
        if _collective(node):
            old = known.get(node.all_input_nodes[0])
        if old is not None:
            known[node] = old
    return known


def _names(node: Node) -> Iterator[str]:
    """The op of a node, and those that a rank may compute in its place."""
    yield m.op_name(node)
    op = semantic_op(node.target)
    for way in () if op is None else op.facts.shardings:
        if way.op is not None:
            yield f"glmc.{OPS[way.op].name}"


def _collective(node: Node) -> bool:
    op = semantic_op(node.target)
    return op is not None and is_collective(op.name)


def _expected(node: Node, old: Node, whole: Any, ranks: int) -> Iterator[Expected]:
    """What the ranks must have where one had ``whole``; nothing of several values that are cut,
    which are compared one by one."""
    dealt = node.meta.get("dealt")
    if isinstance(whole, tuple) and any("dealt" in user.meta for user in node.users):
        return
    sums = semantic_op(node.target) in _SUMS or dealt == SUMMAND
    summed = tolerance_of_call(old) if sums else None
    if dealt is None:
        yield Expected([whole] * ranks, summed=summed)
    elif dealt != SUMMAND:
        parts = [part_of(whole, dealt, rank) for rank in range(ranks)]
        yield Expected(parts, None, dealt, summed, free=_weighs(node))
    elif _is_summand(node):
        yield Expected(total=whole, summed=summed)
    else:
        yield Expected([whole] * ranks)


def _weighs(node: Node) -> bool:
    """Whether ``node`` is an attention: a head of nothing that has another's keys gives a mean of
    their values, and the columns of the weight that reads it are zeros."""
    op = semantic_op(node.target)
    return op is not None and op.facts.scores is not None


def _is_summand(node: Node) -> bool:
    """Whether all who read the value of ``node`` take it for a summand."""
    return all(_adds(user, node) for user in node.users)


def _adds(reader: Node, value: Node) -> bool:
    """Whether ``reader`` adds ``value`` over the ranks, or to what they add up themselves."""
    op = semantic_op(reader.target)
    if op in _SUMS:
        return True
    if op is None or reader.meta.get("dealt") != SUMMAND:
        return False
    names = [
        name
        for name, operand in zip(op.argument_names, reader.args, strict=True)
        if operand is value
    ]
    ways = [way for way in op.facts.shardings if way.results == ("sum",)]
    return any(all(way.operands.get(name) == "first" for name in names) for way in ways)


def part_of(whole: Tensor, dealt: tuple[int, Layout], rank: int) -> Tensor:
    """What a rank has of a value."""
    axis, layout = dealt
    return entries_of(whole, axis, layout.runs(rank))


def _caches(after: Program, caches: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """What a rank has of each cache."""
    found = {}
    for node in after.caches():
        name = node.meta["input"]
        dealt = node.meta.get("dealt")
        found[name] = caches[name] if dealt is None else part_of(caches[name], dealt, rank)
    return found
