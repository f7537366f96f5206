"""The order of the experts' rows: which spelling of an index means which permutation.

A *slot* is one choice of one token: slot ``token * top_k + j``. The batched spelling keeps rows in
the order of slots; the grouped one sorts them by expert and sorts back. These predicates say what
an index tensor means, however a version of transformers wrote it; ``moe_ffn`` asks them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import given, note


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
        return (m.operand(node, 0), m.operand(node, 2)) if m.argument(node, 1) == 0 else None
    values, indices = m.argument(node, 0), m.argument(node, 1)
    if not isinstance(values, Node) or not isinstance(indices, (list, tuple)) or len(indices) != 1:
        return None
    return (values, indices[0]) if isinstance(indices[0], Node) else None


def sorted_input(permutation: Node) -> Node | None:
    """The value whose ascending order ``permutation`` is, or None when it is no sort's index."""
    if m.is_op(permutation, "getitem"):
        sort = m.operand(permutation, 0)
        if m.argument(permutation, 1) != 1 or not m.is_op(sort, "aten.sort"):
            return None
        permutation = sort
    elif not m.is_op(permutation, "aten.argsort"):
        return None
    values = m.operand(permutation, 0)
    descending = m.argument(permutation, 2, "descending", False)
    m.argument(permutation, -1, "stable")  # rows of one expert may stand in any order
    last = m.last_axis(values, m.argument(permutation, 1, "dim", -1))
    return values if last and not descending else None


def is_inverse(index: Node, permutation: Node) -> bool:
    """Whether ``index`` undoes ``permutation``: scattered positions, or a second sort."""
    if m.is_op(index, "aten.index_put", "aten.scatter"):
        put = m.is_op(index, "aten.index_put")
        positions = m.argument(index, 2 if put else 3)
        at = m.argument(index, 1) if put else [m.argument(index, 2)]
        plain = isinstance(at, (list, tuple)) and list(at) == [permutation]
        first = put or m.argument(index, 1) in (0, -1)
        adds = put and bool(m.argument(index, 3, "accumulate", False))
        return plain and first and _written_whole(index) and m.counts_up(positions) and not adds
    return sorted_input(index) is permutation


def _written_whole(index: Node) -> bool:
    """Whether nothing is left of the value that is written to, whatever it held."""
    base, written = m.operand(index, 0), m.shape(index)
    at = m.argument(index, 1) if m.is_op(index, "aten.index_put") else [m.argument(index, 2)]
    whole = len(written) == 1 and m.same_shape(base, at[0])  # type: ignore[index]
    if whole:
        note(base, *given(base))
    return whole


def token_of_slot(node: Node, top_k: int) -> bool:
    """Each token's number ``top_k`` times, in slot order."""
    if m.is_op(node, "aten.floor_divide", "aten.repeat_interleave"):
        along = m.is_op(node, "aten.floor_divide") or m.argument(node, 2, "dim") in (None, 0, -1)
        m.argument(node, 3, "output_size")  # as the shape says
        by_token = m.number(m.argument(node, 1)) == top_k
        return by_token and along and m.counts_up(m.argument(node, 0))
    return _widened_by(node, top_k) and m.counts_up(m.skip(node, _WIDENING))


def source_of_rows(rows: Node, order: Order) -> Node:
    """x [tokens, hidden] of which ``rows`` holds each token's row once for each of its slots."""
    permutation, top_k = order.permutation, order.top_k
    gathered = indexed(rows)
    if gathered is None:
        m.require(permutation is None, rows, "the rows must be in the order of the experts")
        if m.is_op(rows, "aten.repeat_interleave"):
            by_token = m.argument(rows, 1) == top_k and m.argument(rows, 2, "dim") == 0
            m.argument(rows, 3, "output_size")  # as the shape says
            m.require(by_token, rows, "each token's row must be repeated once for each expert")
            return m.operand(rows, 0)
        m.require(_widened_by(rows, top_k), rows, "each token's row must be repeated in place")
        return m.skip(rows, _WIDENING)
    values, index = gathered
    if permutation is None:
        m.require(token_of_slot(index, top_k), index, "each token's row must be repeated in place")
        return values
    if index is permutation:
        return source_of_rows(values, Order(order.ids, top_k))
    index_list = indexed(index)
    divided = m.is_op(index, "aten.floor_divide") and m.arguments(index)[:2] == (permutation, top_k)
    through = (
        index_list is not None
        and index_list[1] is permutation
        and token_of_slot(index_list[0], top_k)
    )
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
    m.require(m.dtype(offsets) in _EXACT, offsets, reason)
    counts = _uncast(m.operand(offsets, 0))
    m.require(m.is_op(counts, "aten.histc"), counts, reason)
    bounds = tuple(m.argument(counts, index, name) for index, name in enumerate(_HISTC, start=1))
    m.require(bounds == (experts, 0, experts - 1), counts, f"histc must count {experts} experts")
    m.require(is_ids(_uncast(m.operand(counts, 0)), order), counts, reason)


def _uncast(node: Node) -> Node:
    """Whole numbers before casts that keep them."""
    while m.is_op(node, *m.CASTS) and m.dtype(node) in _EXACT:
        node = m.operand(node, 0)
    return node


_EXACT = (torch.int32, torch.int64, torch.float32, torch.float64)
_HISTC = ("bins", "min", "max")
_WIDENING = (*m.SHAPES, "aten.expand")


def is_ids(node: Node, order: Order) -> bool:
    """The chosen experts, flat; in slot order or sorted."""
    if m.is_op(node, "getitem") and m.is_op(m.operand(node, 0), "aten.sort"):
        sort, first = m.operand(node, 0), m.argument(node, 1) == 0
        last = m.last_axis(m.operand(sort, 0), m.argument(sort, 1, "dim", -1))
        node = m.operand(sort, 0) if first and last else node
    gathered = indexed(node)
    if gathered is not None and gathered[1] is order.permutation:
        node = gathered[0]
    return m.skip(node, m.SHAPES) is order.ids


def _widened_by(node: Node, top_k: int) -> bool:
    """reshape(expand(unsqueeze(., 1), [-1, top_k, ...])): each entry ``top_k`` times in place."""
    wide = m.skip(node, m.SHAPES)
    if not m.is_op(wide, "aten.expand") or len(m.shape(wide)) < 2:
        return False
    narrow = m.operand(wide, 0)
    return m.shape(wide)[1] == top_k and m.shape(narrow)[1] == 1
