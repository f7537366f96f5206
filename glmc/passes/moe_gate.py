"""moe_gate: the twenty to thirty nodes of the router become one ``glmc.moe_gate``.

Before: float32 linear, sigmoid, correction bias, the mask of the best groups, top-k on the biased
scores, gather of the unbiased ones, division by their sum, scale. After: one node with weights and
ids. Anchor: ``gather(sigmoid(.), 1, getitem(topk, 1))``, which no version has spelled otherwise.

Bitwise: the reference repeats the operations in their order. When all groups are chosen the group
stage masks nothing, so it is dropped (``groups == top_groups == 1``), which is bitwise as well.

Refuses a router that is not computed in float32, a gate that weighs biased scores, a group mask
that is not built from the two best scores of contiguous groups, a normalisation it can't read, and
a routed scale that is applied twice. Other readers of scores, logits or ids keep what they read.

Safe where scores are float32 and each step of the choice is recognised; weights taken from biased
scores, or a group mask of another rule, would make it unsafe, since a different expert is another
model. Pays with few tokens: some twenty launches of tiny work become one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.moe import MOE_GATE
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass
from glmc.patterns.router_groups import Groups, match_groups

_TO_EXPERTS = (
    *m.SHAPES,
    *m.CASTS,
    "aten.index",
    "aten.expand",
    "aten.permute",
    "aten.repeat_interleave",
    "aten.masked_fill",
    "aten.mul",
    "aten.sum",
    "glmc.marked_experts",
)


@dataclass(frozen=True)
class Router:
    """``scores = sigmoid(linear(x, weight))``; x and weight before their casts to float32."""

    x: Node
    weight: Node
    logits: Node
    scores: Node


@dataclass(frozen=True)
class Weighing:
    """What happens to the gathered scores; ``result`` is the last node of it."""

    result: Node
    normalize: bool
    eps: float
    scale: float


@dataclass(frozen=True)
class Gate:
    router: Router
    bias: Node
    top_k: int
    groups: Groups
    weighing: Weighing
    ids: Node
    anchor: Node


def match(anchor: Node, program: Program) -> Gate:
    ids = m.argument(anchor, 2)
    if not m.is_op(ids, "getitem") or not isinstance(ids, Node) or m.argument(ids, 1) != 1:
        m.unrelated(anchor)
    topk = m.operand(ids, 0)
    if not m.is_op(topk, "aten.topk"):
        m.unrelated(anchor)
    m.require(
        len(m.shape(anchor)) == 2 and m.last_axis(anchor, m.argument(anchor, 1)),
        anchor,
        "the scores of [tokens, experts] must be gathered along the experts",
    )
    router = _router(anchor, program)
    top_k, choice = _top_k(topk)
    m.require(
        m.same_size(m.shape(choice)[-1], m.shape(router.logits)[-1]),
        topk,
        "top-k must be over all experts of a token",
    )
    groups, biased = match_groups(choice)
    bias = _bias(biased, router, program)
    weighing = _weighing(anchor)
    _require_scaled_once(weighing)
    return Gate(router, bias, top_k, groups, weighing, ids, anchor)


def _router(anchor: Node, program: Program) -> Router:
    gathered = m.operand(anchor, 0)
    scores = m.skip(gathered, m.SHAPES)
    m.require(
        not m.is_op(scores, "aten.add", "aten.masked_fill", "aten.where"),
        scores,
        "experts must be weighed by their unbiased scores, not by those they are chosen by",
    )
    m.expect_op(scores, anchor, "aten.sigmoid")
    logits = m.skip(m.operand(scores, 0), m.SHAPES)
    computed = m.skip_casts(logits)
    m.expect_op(computed, scores, "glmc.linear")
    m.require(
        computed is logits and m.dtype(logits) == torch.float32,
        computed,
        "the router must be computed in float32",
    )
    m.require(m.argument(logits, 2) is None, logits, "the router must have no bias in its linear")
    experts = m.shape(logits)[-1]
    m.require(
        m.same_size(m.shape(gathered)[-1], experts),
        gathered,
        "the scores must be gathered among all experts of a token",
    )
    x, weight = _uncast(m.operand(logits, 0)), _uncast(m.operand(logits, 1))
    m.require(program.weight_of(weight) is not None, logits, "the router must be a model weight")
    return Router(x, weight, logits, scores)


def _uncast(node: Node) -> Node:
    """Strip the cast to float32, which the op does itself; a cast to less rounds, so it stays."""
    while m.is_op(node, *m.CASTS) and m.dtype(node) == torch.float32:
        node = m.operand(node, 0)
    return node


def _top_k(topk: Node) -> tuple[int, Node]:
    """The number of experts of a token and what they are chosen by."""
    top_k = m.argument(topk, 1, "k")
    if not isinstance(top_k, int):
        m.refuse(topk, "the number of experts of a token must be a literal")
    m.require(
        m.last_axis(m.operand(topk, 0), m.argument(topk, 2, "dim", -1)), topk, "top-k over experts"
    )
    m.require(bool(m.argument(topk, 3, "largest", True)), topk, "top-k must take the largest")
    m.require(
        not m.argument(topk, 4, "sorted", True),
        topk,
        "the chosen experts must be unsorted: the op keeps top-k's own order",
    )
    return top_k, m.operand(topk, 0)


def _bias(biased: Node, router: Router, program: Program) -> Node:
    m.require(
        biased is not router.scores, biased, "experts must be chosen by scores plus a correction"
    )
    m.expect_op(biased, router.scores, "aten.add")
    alpha = m.argument(biased, 2, "alpha", 1)
    m.require(alpha == 1, biased, "the correction bias must be added unscaled")
    operands = [m.skip(m.operand(biased, index), m.SHAPES) for index in (0, 1)]
    if router.scores not in operands:
        m.refuse(biased, "experts must be chosen by the scores that weigh them, plus a correction")
    bias = operands[1 - operands.index(router.scores)]
    m.require(program.weight_of(bias) is not None, biased, "the correction must be a model weight")
    m.require(
        m.shape(bias) == m.shape(router.scores)[-1:] and m.dtype(bias) == torch.float32,
        biased,
        "the correction must be one float32 value for each expert",
    )
    return bias


def _weighing(gathered: Node) -> Weighing:
    result, normalize, eps = gathered, False, 0.0
    sums = m.users(gathered, "aten.sum")
    divisions = m.users(gathered, "aten.div")
    if sums or divisions:
        if len(sums) != 1 or len(divisions) != 1 or m.argument(divisions[0], 0) is not gathered:
            m.refuse(gathered, "the weights must be divided once, by their own sum")
        total, result, normalize = sums[0], divisions[0], True
        denominator, _ = m.operand(result, 1), m.operand(total, 0)
        m.argument(total, 2, "keepdim")  # as the shape says
        m.require(
            m.last_axis(gathered, m.argument(total, 1, "dim"))
            and len(m.shape(denominator)) == 2
            and m.shape(denominator)[1] == 1,
            total,
            "the weights' sum must be over the experts of a token and keep its dimension",
        )
        eps = _eps(denominator, total)
    scale = 1.0
    following = m.users(result)
    if len(following) == 1 and m.is_op(following[0], "aten.mul") and m.is_scaling(following[0]):
        result = following[0]
        scale = float(m.literal(result) or 0.0)
    return Weighing(result, normalize, eps, scale)


def _eps(denominator: Node, total: Node) -> float:
    """The constant in ``sum + eps``; 0.0 for the bare sum. The sum may be reshaped anywhere."""
    denominator = m.skip(denominator, m.SHAPES)
    if denominator is total:
        return 0.0
    m.expect_op(denominator, total, "aten.add")
    eps = m.number(m.argument(denominator, 1))
    summed = m.skip(m.operand(denominator, 0), m.SHAPES)
    if summed is not total or eps is None or m.argument(denominator, 2, "alpha", 1) != 1:
        m.refuse(denominator, "the weights must be divided by their sum plus a literal eps")
    return float(eps)


def _require_scaled_once(weighing: Weighing) -> None:
    """Follow the weights through the experts to where the routed output is added to another."""
    scalings = [weighing.result] if m.is_scaling(weighing.result) else []
    todo, seen = list(weighing.result.users), {weighing.result}
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if m.is_scaling(node):
            scalings.append(node)
        if m.is_op(node, *_TO_EXPERTS) or m.is_scaling(node):
            todo.extend(node.users)
        elif m.is_op(node, "aten.div") and _total_of(node) in seen:
            m.refuse(node, "the weights must be normalised before they are scaled")
    if len(scalings) > 1:
        m.refuse(scalings[1], f"the routed scale must be applied once, not {len(scalings)} times")


def _total_of(division: Node) -> object:
    """What was summed to make the denominator of a division, or None."""
    denominator = m.skip(m.operand(division, 1), m.SHAPES)
    if m.is_op(denominator, "aten.add"):
        denominator = m.skip(m.operand(denominator, 0), m.SHAPES)
    return m.argument(denominator, 0) if m.is_op(denominator, "aten.sum") else None


def rewrite(rewriter: Rewriter, gate: Gate) -> None:
    x, router, weighing = gate.router.x, gate.router, gate.weighing
    inner = (gate.anchor, router.logits, router.scores, m.operand(gate.ids, 0), weighing.result)
    if len(m.shape(x)) != 2:
        flat = (x, [-1, m.shape(x)[-1]])
        x = rewriter.call(torch.ops.aten.reshape.default, flat, replaces=(router.logits,))
    arguments = (
        x,
        router.weight,
        gate.bias,
        gate.top_k,
        gate.groups.count,
        gate.groups.chosen,
        gate.groups.fill,
        weighing.normalize,
        weighing.eps,
        weighing.scale,
    )
    new = rewriter.call(MOE_GATE.overload, arguments, replaces=tuple(dict.fromkeys(inner)))
    rewriter.replace(weighing.result, rewriter.item(new, 0))
    rewriter.replace(gate.ids, rewriter.item(new, 1))


PASS = AnchorPass("moe_gate", Numerics.BITWISE, ("aten.gather",), match, rewrite)
