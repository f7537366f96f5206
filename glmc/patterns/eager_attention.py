"""The eager spelling of attention: product, scale, mask, softmax, product.

A part of the pass ``attention``. Scale and mask may come in any order and form (``mul``, ``div``,
``add``, ``masked_fill``, ``where``), the scale also on queries and keys; the products may be
``matmul`` or ``bmm`` of reshaped values.
"""

from __future__ import annotations

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.patterns.causal import require_causal

_FLOATING = "the mask that is added must be of floating-point numbers"
_ROUNDED = "the weights must not be rounded to less than the dtype of the values"
_DROPOUTS = ("aten.dropout", "aten.native_dropout")


def read_eager(anchor: Node, program: Program) -> tuple[Node, Node, Node, float, Node | None, Node]:
    """(q, repeated k, repeated v, scale, mask, root) around a softmax; unrelated when it is none.

    The mask is None where it was proved causal; that of a traced program is what is added.
    """
    masked = m.skip_casts(m.operand(anchor, 0))
    scores = _scores(masked)
    if scores is None or len(m.shape(anchor)) != 4:
        m.unrelated(anchor)
    product, scale = scores
    last = m.argument(anchor, 1, "dim")
    m.require(last in (-1, 3), anchor, "the softmax must be over the keys")
    m.argument(anchor, 2, "half_to_float")  # or the dtype: as that of the node says
    m.require(m.holds(m.dtype(anchor), m.dtype(product)), anchor, _ROUNDED)
    mask = None
    if not program.assumes.causal:
        mask = _added(masked, product)
        m.require(mask is None or m.dtype(mask).is_floating_point, anchor, _FLOATING)
    else:
        m.require(masked is not product, anchor, "attention without a mask is not causal")
        require_causal(masked, program, product)
    q, transposed = (_factor(node) for node in _factors(product))
    transposed, factor = unscaled(transposed)
    k = m.expect_op(transposed, product, "aten.permute")
    order = list(m.argument(k, 1))  # type: ignore[call-overload]
    rank = len(order)
    m.require(
        order == [*range(rank - 2), rank - 1, rank - 2], k, "the keys must be transposed once"
    )
    weights, root = _second_product(anchor)
    v = _factors(root)[1]
    m.require(_factors(root)[0] is weights, root, "the softmax must multiply the values")
    return q, m.operand(k, 0), v, scale * factor, mask, root


def _added(masked: Node, product: Node) -> Node | None:
    """What is added to the scaled product, once and last; None where nothing is."""
    if m.is_op(masked, "aten.add"):
        for index in (0, 1):
            scores, mask = m.operand(masked, index), m.operand(masked, 1 - index)
            inner = _scores(scores)
            if inner is not None and inner[0] is product:
                plain = m.skip(scores, ("aten.mul", "aten.div")) is product
                m.require(plain, scores, "the mask must be added to the scaled product")
                return mask
    plain = m.skip(masked, ("aten.mul", "aten.div")) is product
    m.require(plain, masked, "the mask must be added to the scaled product")
    return None


def _scores(node: Node) -> tuple[Node, float] | None:
    """(product of q and k, scale) above the masked scores, or None when there is no product."""
    if _is_product(node):
        return node, 1.0
    if m.is_op(node, *m.CASTS, "aten.masked_fill"):
        return _scores(m.skip_casts(node) if m.is_op(node, *m.CASTS) else m.operand(node, 0))
    if m.is_op(node, "aten.add", "aten.where"):
        candidates = [scores for scores in map(_scores, node.all_input_nodes) if scores is not None]
        return candidates[0] if len(candidates) == 1 else None
    if m.is_op(node, "aten.mul", "aten.div"):
        candidates = [scores for scores in map(_scores, node.all_input_nodes) if scores is not None]
        if len(candidates) != 1:
            return None
        factor = m.literal(node)
        if factor is None or not isinstance(m.argument(node, 0), Node):
            m.refuse(node, "the scale must be a number")
        product, scale = candidates[0]
        return product, scale * factor if m.is_op(node, "aten.mul") else scale / factor
    return None


def _is_product(node: Node) -> bool:
    if m.is_op(node, "aten.reshape"):
        return m.is_op(m.argument(node, 0), "aten.bmm")
    return m.is_op(node, "aten.matmul")


def _factors(product: Node) -> tuple[Node, Node]:
    multiply = m.operand(product, 0) if m.is_op(product, "aten.reshape") else product
    return m.operand(multiply, 0), m.operand(multiply, 1)


def _factor(node: Node) -> Node:
    """A factor before it was folded to three dimensions for bmm."""
    if len(m.shape(node)) == 3 and m.is_op(node, "aten.reshape"):
        node = m.operand(node, 0)
    while m.is_op(node, "aten.expand") and m.same_shape(node, m.operand(node, 0)):
        node = m.operand(node, 0)
    return node


def unscaled(factor: Node) -> tuple[Node, float]:
    """(value, scale) of queries or keys that are scaled before the product."""
    if m.is_op(factor, "aten.mul", "aten.div"):
        value, by = m.operand(factor, 0), m.number(m.argument(factor, 1))
        # A bool or a whole number becomes a float by the scale: without it no kernel takes it.
        if by is not None and m.dtype(value) == m.dtype(factor):
            scale = float(by) if m.is_op(factor, "aten.mul") else 1.0 / by
            return value, scale
    return factor, 1.0


def _second_product(anchor: Node) -> tuple[Node, Node]:
    """(weights as they enter the product, product) below the softmax."""
    node, casts = anchor, list[Node]()
    while True:
        user = m.sole_user(node)
        if m.is_op(user, "aten.matmul", "aten.bmm"):
            for cast in casts:
                m.require(m.holds(m.dtype(cast), m.dtype(user)), cast, _ROUNDED)
            return node, m.sole_user(user, "aten.reshape") if m.is_op(user, "aten.bmm") else user
        if m.is_op(user, *m.CASTS):
            casts.append(user)
        elif m.is_op(user, *_DROPOUTS):
            _no_dropout(user)
        elif m.is_op(user, "aten.expand"):
            m.require(m.same_shape(user, node), user, "the weights must not be repeated")
        elif not m.is_op(user, *m.CASTS, "aten.reshape", "getitem"):
            m.refuse(user, f"expected the product with the values but found {m.op_name(user)}")
        node = user


def _no_dropout(node: Node) -> None:
    probability, training = m.argument(node, 1, "p", 0.0), m.argument(node, 2, "train", True)
    m.require(probability == 0 or not training, node, f"dropout must be 0, not {probability}")
