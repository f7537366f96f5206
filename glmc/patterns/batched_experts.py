"""The batched spelling of the experts: each chosen expert's matrix times its row.

A part of the pass ``moe_ffn``. The matrices are gathered for [slots] or for [tokens, top_k]; they
are the left operand of the product, or the right one transposed; each row is a column after
them or a row in front, repeated for each choice or, in four dimensions, broadcast over the choices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.patterns.expert_order import Order, indexed
from glmc.patterns.expert_parts import halves

BATCHED = ("aten.bmm", "aten.matmul")


@dataclass(frozen=True)
class Parts:
    """Two products with the activation between; ``rows`` go in, ``first`` is the first product.

    With ``broadcast`` the rows are the tokens themselves.
    """

    rows: Node
    gate_up: Node
    down: Node
    first: Node
    order: Order
    masks: tuple[Node, ...] = ()
    offsets: Node | None = None
    broadcast: bool = False


@dataclass(frozen=True)
class _Product:
    """``rows`` [..., in] as they enter, times the matrices of the experts ``ids``."""

    weight: Node
    ids: Node
    rows: Node
    clamps: tuple[Node, ...]


def read_batched(product: Node) -> Parts:
    second = _read(product)
    activated = m.skip(second.rows, m.SHAPES)
    both = m.skip(halves(activated), m.SHAPES)
    m.expect_op(both, activated, *BATCHED)
    first = _read(both)
    m.require(first.ids is second.ids, both, "both products must be of the same chosen experts")
    rows, broadcast = _source(first.rows, both)
    order = Order(second.ids, 0)
    masks = (*second.clamps, *first.clamps)
    return Parts(rows, first.weight, second.weight, both, order, masks, broadcast=broadcast)


def _read(product: Node) -> _Product:
    """``matrix[ids] @ column``, or ``row @ matrix[ids] transposed``."""
    left, right = m.operand(product, 0), m.operand(product, 1)
    matrix, vector, axis = left, right, -1
    if indexed(left) is None and m.is_op(right, "aten.permute"):
        matrix, vector, axis = m.operand(right, 0), left, -2
        order = list(m.argument(right, 1))  # type: ignore[call-overload]
        rank = len(order)
        m.require(
            order == [*range(rank - 2), rank - 1, rank - 2],
            right,
            "the experts' weights must be stored as [experts, out, in]",
        )
    gathered = indexed(matrix)
    if gathered is None:
        m.refuse(product, "one operand of the product must be the chosen experts' weights")
    sizes = m.shape(vector)
    m.require(
        len(sizes) == len(m.shape(matrix)) and m.is_static(sizes[axis]) and sizes[axis] == 1,
        product,
        "each chosen expert must see one row",
    )
    weight, index = gathered
    ids, clamps = m.skip(index, m.SHAPES), tuple[Node, ...]()
    if m.is_op(ids, "aten.clamp"):
        ids, clamps = m.skip(m.operand(ids, 0), m.SHAPES), (ids,)
    m.require(
        len(sizes) == 3 or m.same_shape(index, ids),
        product,
        "the matrices must be those of the slots, or of [tokens, top_k]",
    )
    return _Product(weight, ids, vector, clamps)


def _source(vector: Node, product: Node) -> tuple[Node, bool]:
    """(the rows without their added dimension, whether they are broadcast over the choices)."""
    sizes = m.shape(vector)
    rows = m.skip(vector, ("aten.unsqueeze",))
    if len(sizes) == 3:
        return rows, False
    m.require(
        len(m.shape(rows)) == 2 and m.same_size(m.shape(rows)[0], sizes[0]) and sizes[1] == 1,
        product,
        "the tokens must be broadcast over their chosen experts",
    )
    return rows, True
