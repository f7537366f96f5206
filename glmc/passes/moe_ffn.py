"""moe_ffn: the routed experts become one ``glmc.moe_ffn``.

Before, batched: each chosen expert's matrices gathered by ``index`` and multiplied by ``bmm`` or
``matmul`` with the rows, repeated for each choice or broadcast over the choices.
Grouped: rows sorted by expert, two grouped products, sorted back. Marked: one node that
transformers' registry of experts functions left. In all of them silu, product with the float32
routing weights, sum over the choices. After: one node. Anchor: the sum over the choices, or the
marked node.

Reordered: the products' reduction order is the kernel's own; everything else is as before.

Refuses routing weights that are applied elsewhere than to the experts' results, or not in float32;
ids and weights that are not the two results of one ``glmc.moe_gate``; another activation; biases
and transposed experts; and rows whose order can't be followed. An expert number beyond the last
(the sentinel of expert parallelism) can't come out of the gate, so masks for it are dropped.

Safe where ids and weights are the two results of one gate and the order of rows is followed back to
the tokens; weights applied in another place or dtype, or rows in an unknown order, would make it
unsafe. Pays always: plain code reads or multiplies far more than the chosen experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.moe import MOE_FFN
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass
from glmc.patterns.batched_experts import BATCHED, Parts, read_batched
from glmc.patterns.expert_order import (
    Order,
    indexed,
    is_ids,
    is_inverse,
    require_offsets,
    sorted_input,
    source_of_rows,
)
from glmc.patterns.expert_parts import halves, results_of_gate, same_value

MARKED = "glmc.marked_experts"
_GROUPED = ("aten._grouped_mm", "transformers.grouped_mm_fallback")
_PRODUCTS = (*BATCHED, *_GROUPED)


@dataclass(frozen=True)
class Experts:
    """The operands of moe_ffn; ``result`` is [tokens, hidden] in the dtype of x."""

    x: Node
    gate: Node
    gate_up: Node
    down: Node
    result: Node
    inner: tuple[Node, ...]


def match(anchor: Node, program: Program) -> Experts:
    experts = _marked(anchor) if m.is_op(anchor, MARKED) else _spelled(anchor)
    _require_weights(experts, program)
    return experts


def _marked(anchor: Node) -> Experts:
    x, ids, weights, gate_up, down = (m.operand(anchor, index) for index in range(5))
    gate = results_of_gate(ids, weights, anchor)
    return Experts(x, gate, gate_up, down, anchor, (anchor,))


def _spelled(anchor: Node) -> Experts:
    summed = m.operand(anchor, 0)
    if len(m.shape(summed)) != 3:
        m.unrelated(anchor)
    rows, masks = _unmasked(m.skip(summed, m.SHAPES))
    restored = indexed(rows)
    weighted, more = _unmasked(restored[0] if restored is not None else rows)
    result, weights = _weighted(weighted, anchor)
    result, below = _unmasked(result)
    product = m.skip(result, m.SHAPES)
    if m.is_op(product, *BATCHED):
        m.require(restored is None, rows, "batched experts must keep the order of their rows")
        parts = read_batched(product)
    else:
        parts = _grouped(product)
    order, inputs = parts.order, parts.rows
    if order.permutation is not None:
        m.require(
            restored is not None and is_inverse(restored[1], order.permutation),
            rows,
            "the experts' results must be put back into the order of the tokens",
        )
        weights = _sorted_like_rows(weights, order.permutation)
    source, weight_masks = _unmasked(m.skip(weights, m.SHAPES))
    gate = results_of_gate(order.ids, m.skip(source, m.SHAPES), anchor)
    _require_sum(anchor, gate)
    for mask in (*masks, *more, *below, *weight_masks, *parts.masks):
        _require_never(mask, order, gate)
    order = Order(order.ids, int(m.argument(gate, 3)), order.permutation)  # type: ignore[call-overload]
    if parts.offsets is not None:
        require_offsets(parts.offsets, order, _experts(gate))
    x = inputs if parts.broadcast else source_of_rows(inputs, order)
    return Experts(
        x,
        gate,
        parts.gate_up,
        parts.down,
        _in_dtype_of(x, anchor),
        (anchor, parts.first, product, weighted),
    )


def _weighted(weighted: Node, anchor: Node) -> tuple[Node, Node]:
    """(experts' results, routing weights), both as they enter the product."""
    if m.is_op(m.skip(weighted, m.SHAPES), *_PRODUCTS):
        m.refuse(anchor, "the routing weights must multiply the results of the experts")
    if not m.is_op(weighted, "aten.mul"):
        m.unrelated(anchor)
    operands = [value for value in m.arguments(weighted) if isinstance(value, Node)]
    products = [node for node in operands if m.is_op(_skip_casts(_unmasked(node)[0]), *_PRODUCTS)]
    if len(products) != 1 or len(operands) != 2:
        if any(_routed(node) for node in operands):
            m.refuse(weighted, "the experts' results must be weighed as they are")
        m.unrelated(anchor)
    result, weights = products[0], m.other_operand(weighted, products[0])
    in_float32 = str(m.dtype(weighted)) == str(m.dtype(weights)) == "torch.float32"
    m.require(in_float32, weighted, "the routing weights must multiply in float32")
    m.require(
        m.shape(weights)[-1] == 1, weighted, "each row must be multiplied by one routing weight"
    )
    bare = m.skip(_unmasked(result)[0], m.SHAPES)
    m.require(
        bare is _skip_casts(bare), bare, "the experts' results must not be cast before weighing"
    )
    return result, weights


def _routed(node: Node) -> bool:
    """Whether a value is the gate's weights, reshaped, cast or sorted."""
    weights = m.skip(node, (*m.SHAPES, *m.CASTS, "aten.index"))
    return m.is_op(weights, "getitem") and m.is_op(m.argument(weights, 0), "glmc.moe_gate")


def _skip_casts(node: Node) -> Node:
    return m.skip(node, (*m.SHAPES, *m.CASTS))


def _grouped(product: Node) -> Parts:
    activated, down, offsets = _grouped_operands(product)
    activated, masks = _unmasked(activated)
    both = halves(activated)
    both, more = _unmasked(both)
    m.expect_op(both, activated, *_GROUPED)
    rows, gate_up, same = _grouped_operands(both)
    m.require(same is offsets, both, "both products must have the same groups")
    rows, further = _unmasked(rows)
    order = _order_of(rows)
    return Parts(rows, gate_up, down, both, order, (*masks, *more, *further), offsets)


def _grouped_operands(product: Node) -> tuple[Node, Node, Node]:
    """(rows, stacked weight [experts, out, in], offsets)."""
    transposed = m.operand(product, 1)
    m.expect_op(transposed, product, "aten.permute")
    m.require(
        list(m.argument(transposed, 1)) == [0, 2, 1],  # type: ignore[call-overload]
        transposed,
        "the experts' weights must be stored as [experts, out, in]",
    )
    offsets = m.argument(product, 2, "offs")
    if not isinstance(offsets, Node) or m.argument(product, 3, "bias") is not None:
        m.refuse(product, "the grouped product must have offsets and no bias")
    return m.operand(product, 0), m.operand(transposed, 0), offsets


def _order_of(rows: Node) -> Order:
    """The sort by expert that the rows went through."""
    gathered = indexed(rows)
    candidates = [] if gathered is None else [gathered[1], *gathered[1].all_input_nodes]
    for candidate in candidates:
        ids = sorted_input(candidate)
        if ids is not None:
            return Order(m.skip(ids, m.SHAPES), 0, candidate)
    m.refuse(rows, "the rows must be sorted by their expert")


def _sorted_like_rows(weights: Node, permutation: Node) -> Node:
    gathered = indexed(m.skip(weights, m.SHAPES))
    if gathered is None or gathered[1] is not permutation:
        m.refuse(weights, "the routing weights must be sorted like the rows")
    return gathered[0]


def _unmasked(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """Strip masks that put 0 at slots without an expert; the masks are checked by the caller."""
    masks: list[Node] = []
    while m.is_op(node, "aten.masked_fill") and m.number(m.argument(node, 2)) == 0:
        masks.append(m.skip(m.operand(node, 1), m.SHAPES))
        node = m.operand(node, 0)
    return node, tuple(masks)


def _require_never(mask: Node, order: Order, gate: Node) -> None:
    """A mask or clamp that concerns only ids the gate can't give."""
    experts = _experts(gate)
    ids = m.skip(m.operand(mask, 0), m.SHAPES)
    if m.is_op(mask, "aten.clamp"):
        low, high = m.number(m.argument(mask, 1, "min")), m.number(m.argument(mask, 2, "max"))
        harmless = (low is None or low <= 0) and (high is None or high >= experts - 1)
    else:
        bound = m.number(m.argument(mask, 1)) if m.is_op(mask, "aten.ge") else None
        harmless = bound is not None and bound >= experts
    m.require(
        harmless and is_ids(ids, order), mask, "only ids beyond the last expert may be masked"
    )


def _experts(gate: Node) -> int:
    return int(m.shape(m.operand(gate, 1))[0])


def _require_sum(anchor: Node, gate: Node) -> None:
    axis, keeps = m.argument(anchor, 1, "dim"), m.argument(anchor, 2, "keepdim", False)
    by_choice = list(axis) in ([1], [-2]) if isinstance(axis, (list, tuple)) else False
    m.require(
        by_choice and not keeps and m.shape(m.operand(anchor, 0))[1] == m.argument(gate, 3),
        anchor,
        "the sum must be over the experts of a token",
    )
    m.require(m.argument(anchor, 3, "dtype") is None, anchor, "the sum must not change the dtype")


def _in_dtype_of(x: Node, anchor: Node) -> Node:
    """The node that holds the sum in the dtype of x: one cast after a float32 sum."""
    if m.dtype(anchor) == m.dtype(x):
        return anchor
    cast = m.sole_user(anchor, *m.CASTS)
    m.require(m.dtype(cast) == m.dtype(x), cast, "the sum must be cast to the dtype of the input")
    return cast


def _require_weights(experts: Experts, program: Program) -> None:
    x, gate_up, down = experts.x, experts.gate_up, experts.down
    for node in (gate_up, down):
        m.require(
            program.weight_of(node) is not None, node, "the experts' matrices must be weights"
        )
        m.require(m.dtype(node) == m.dtype(x), node, "weights and input must have the same dtype")
    count, hidden = _experts(experts.gate), m.shape(x)[-1]
    width = m.shape(down)[-1]
    m.require(len(m.shape(x)) == 2, x, "the experts must see [tokens, hidden]")
    m.require(
        m.shape(gate_up) == (count, 2 * width, hidden),
        gate_up,
        f"gate and up of {count} experts must be [{count}, {2 * width}, {hidden}]",
    )
    m.require(
        m.shape(down) == (count, hidden, width),
        down,
        f"down of {count} experts must be [{count}, {hidden}, {width}]",
    )


def rewrite(rewriter: Rewriter, experts: Experts) -> None:
    seen = m.operand(experts.gate, 0)
    x = seen if same_value(seen, experts.x) else experts.x
    results = {int(m.argument(user, 1)): user for user in m.users(experts.gate, "getitem")}  # type: ignore[call-overload]
    arguments = (x, results[0], results[1], experts.gate_up, experts.down)
    new = rewriter.call(MOE_FFN.overload, arguments, replaces=experts.inner)
    rewriter.replace(experts.result, new)


PASS = AnchorPass("moe_ffn", Numerics.REORDERED, ("aten.sum", MARKED), match, rewrite)
