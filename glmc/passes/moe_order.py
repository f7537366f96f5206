"""The order of the experts' rows: which spelling of an index means which permutation.

A *slot* is one choice of one token: slot ``token * top_k + j``. The batched spelling keeps rows in
the order of slots; the grouped one sorts them by expert and sorts back. These predicates say what
an index tensor means, however a version of transformers wrote it; ``moe_ffn`` asks them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m


@dataclass(frozen=True)
class Order:
    """``ids`` [tokens, top_k]; ``permutation`` sorts the slots by expert, None keeps them."""

    ids: Node
    top_k: int
    permutation: Node | None = None


def indexed(node: object) -> tuple[Node, Node] | None:
    """(values, index) of ``values[index]`` along dimension 0, or None."""
    if not isinstance(node, Node) or not m.is_op(node, "aten.index", "aten.index_select"):
        return None
    if m.is_op(node, "aten.index_select"):
        return (m.operand(node, 0), m.operand(node, 2)) if node.args[1] == 0 else None
    values, indices = node.args[0], node.args[1]
    if not isinstance(values, Node) or not isinstance(indices, (list, tuple)) or len(indices) != 1:
        return None
    return (values, indices[0]) if isinstance(indices[0], Node) else None


def sorted_input(permutation: Node) -> Node | None:
    """The value whose ascending order ``permutation`` is, or None when it is no sort's index."""
    if m.is_op(permutation, "getitem"):
        sort = m.operand(permutation, 0)
        if permutation.args[1] != 1 or not m.is_op(sort, "aten.sort"):
            return None
        permutation = sort
    elif not m.is_op(permutation, "aten.argsort"):
        return None
    descending = m.argument(permutation, 2, "descending", False)
    return None if descending else m.operand(permutation, 0)


def is_inverse(index: Node, permutation: Node) -> bool:
    """Whether ``index`` undoes ``permutation``: scattered positions, or a second sort."""
    if m.is_op(index, "aten.index_put", "aten.scatter"):
        positions = index.args[2] if m.is_op(index, "aten.index_put") else index.args[3]
        at = index.args[1] if m.is_op(index, "aten.index_put") else [index.args[2]]
        plain = isinstance(at, (list, tuple)) and list(at) == [permutation]
        adds = m.is_op(index, "aten.index_put") and bool(m.argument(index, 3, "accumulate", False))
        return plain and m.counts_up(positions) and not adds
    return sorted_input(index) is permutation


def token_of_slot(node: Node, top_k: int) -> bool:
    """Each token's number ``top_k`` times, in slot order."""
    if m.is_op(node, "aten.floor_divide", "aten.repeat_interleave"):
        return m.number(node.args[1]) == top_k and m.counts_up(node.args[0])
    return _widened_by(node, top_k) and m.counts_up(m.skip(node, _WIDENING))


def source_of_rows(rows: Node, order: Order) -> Node:
    """x [tokens, hidden] of which ``rows`` holds each token's row once for each of its slots."""
    permutation, top_k = order.permutation, order.top_k
    found = indexed(rows)
    if found is None:
        m.require(permutation is None, rows, "the rows must be in the order of the experts")
        if m.is_op(rows, "aten.repeat_interleave"):
            by_token = rows.args[1] == top_k and m.argument(rows, 2, "dim") == 0
            m.require(by_token, rows, "each token's row must be repeated once for each expert")
            return m.operand(rows, 0)
        m.require(_widened_by(rows, top_k), rows, "each token's row must be repeated in place")
        return m.skip(rows, _WIDENING)
    values, index = found
    if permutation is None:
        m.require(token_of_slot(index, top_k), index, "each token's row must be repeated in place")
        return values
    if index is permutation:
        return source_of_rows(values, Order(order.ids, top_k))
    chosen = indexed(index)
    divided = m.is_op(index, "aten.floor_divide") and tuple(index.args) == (permutation, top_k)
    through = chosen is not None and chosen[1] is permutation and token_of_slot(chosen[0], top_k)
    m.require(divided or through, index, "the rows must be sorted like the chosen experts")
    return values


def require_offsets(offsets: Node, order: Order, experts: int) -> None:
    """The running count of rows of each expert: cumsum of histc of the ids."""
    reason = "the groups must end where the running count of each expert's rows does"
    m.require(
        m.is_op(offsets, "aten.cumsum") and m.argument(offsets, 1, "dim") in (0, -1),
        offsets,
        reason,
    )
    counts = m.skip_casts(m.operand(offsets, 0))
    m.require(m.is_op(counts, "aten.histc"), counts, reason)
    bounds = tuple(m.argument(counts, index, name) for index, name in enumerate(_HISTC, start=1))
    m.require(bounds == (experts, 0, experts - 1), counts, f"histc must count {experts} experts")
    m.require(is_ids(m.skip_casts(m.operand(counts, 0)), order), counts, reason)


_HISTC = ("bins", "min", "max")
_WIDENING = (*m.SHAPES, "aten.expand")


def is_ids(node: Node, order: Order) -> bool:
    """The chosen experts, flat; in slot order or sorted."""
    if m.is_op(node, "getitem") and m.is_op(node.args[0], "aten.sort") and node.args[1] == 0:
        node = m.operand(m.operand(node, 0), 0)
    found = indexed(node)
    if found is not None and found[1] is order.permutation:
        node = found[0]
    return m.skip(node, m.SHAPES) is order.ids


def _widened_by(node: Node, top_k: int) -> bool:
    """reshape(expand(unsqueeze(., 1), [-1, top_k, ...])): each entry ``top_k`` times in place."""
    wide = m.skip(node, m.SHAPES)
    if not m.is_op(wide, "aten.expand") or len(m.shape(wide)) < 2:
        return False
    narrow = m.operand(wide, 0)
    return m.shape(wide)[1] == top_k and m.shape(narrow)[1] == 1
