"""rope: the eight to twelve nodes that rotate q or k become one ``glmc.rope``.

Before: the first entries of each head, in [batch, heads, tokens, head_dim], are multiplied by a
cosine table, their rotated halves (``cat`` or ``stack`` with a ``neg``, or ``q1*c - q2*s``) by a
sine table; the rest of the head passes. After: one node in [batch, tokens, heads, head_dim] with a
permute after it, which ``attention`` takes away. One match per rotated tensor.

Anchor: the ``neg``, or the ``sub`` of the spelling without one; ``view_as_real`` only to say why
not. What the tables hold and which entries make a pair is not read off the spelling but probed:
see patterns/rotation.py. Bitwise.
Refuses tables that are not cos and sin of positions times constant frequencies, pairs that are
neither (i, i + half) nor (2i, 2i + 1), rotations whose inner values are read elsewhere, and
products of complex numbers.

Safe where the tables, probed at several positions, are cos and sin of positions times constant
frequencies, and the pairs are known; tables that depend on the data, or an inner value that is read
elsewhere, would make it unsafe. Pays always: eight to twelve passes over the heads become one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.rotary import ROPE
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass
from glmc.patterns.layout import to_heads_first, token_major
from glmc.patterns.region import require_private
from glmc.patterns.rotation import Rotation, read_rotation

_JOINS = ("aten.cat", "aten.stack", "aten.unsqueeze", "aten.reshape")
_PICKS = ("aten.slice", "aten.select", "aten.unbind", "getitem", *m.SHAPES)


@dataclass(frozen=True)
class Rope:
    anchor: Node
    rotation: Rotation


def match(anchor: Node, program: Program) -> Rope:
    if m.is_op(anchor, "aten.view_as_real"):
        _refuse_complex(anchor)
    spelling = _without_neg if m.is_op(anchor, "aten.sub") else _with_neg
    part, cos, sin, rotated = spelling(anchor)
    x, root = _with_passed_part(part, rotated)
    m.require(len(m.shape(x)) == 4, x, "the rotated value must have four dimensions")
    require_private((x,), root, "rotation")
    return Rope(anchor, read_rotation(program, x, root, cos, sin, int(m.shape(rotated)[-1])))


def _refuse_complex(anchor: Node) -> NoReturn:
    product = m.operand(anchor, 0)
    factors = [m.skip(factor, m.SHAPES) for factor in product.all_input_nodes]
    if not any(m.is_op(factor, "aten.view_as_complex") for factor in factors):
        m.unrelated(anchor)
    m.refuse(product, "the rotation must be of real numbers, not a product of complex ones")


def _with_neg(anchor: Node) -> tuple[Node, Node, Node, Node]:
    """``x*cos + join(-x2, x1)*sin``: (rotated part of x, cos, sin, sum)."""
    joins = m.users(anchor, "aten.cat", "aten.stack", "aten.unsqueeze")
    if not joins:
        m.unrelated(anchor)
    m.require(len(anchor.users) == 1, anchor, "a value inside the rotation is also read elsewhere")
    half = m.skip_down(joins[0], _JOINS)
    product = m.find_user(half, "aten.mul")
    if product is None or anchor in _picked_from(half):
        m.unrelated(anchor)
    m.require(len(half.users) == 1, half, "a value inside the rotation is also read elsewhere")
    sin = m.other_operand(product, half)
    total = m.sole_user(product, "aten.add", "aten.sub")
    straight = m.expect_op(m.other_operand(total, product), total, "aten.mul")
    above = _picked_from(m.operand(anchor, 0))
    for index in (0, 1):
        part = m.operand(straight, index)
        if part in above:
            return part, m.operand(straight, 1 - index), sin, total
    m.refuse(straight, "both products must be of the same value")


def _without_neg(anchor: Node) -> tuple[Node, Node, Node, Node]:
    """``join(x1*cos - x2*sin, x2*cos + x1*sin)``: (x or its rotated part, cos, sin, join)."""
    first, second = m.argument(anchor, 0), m.argument(anchor, 1)
    if not (isinstance(first, Node) and isinstance(second, Node)):
        m.unrelated(anchor)
    joins = m.users(anchor, "aten.cat", "aten.stack", "aten.unsqueeze")
    if not joins or not m.is_op(first, "aten.mul") or not m.is_op(second, "aten.mul"):
        m.unrelated(anchor)
    for side in (0, 1):
        for other in (0, 1):
            left, right = m.operand(first, side), m.operand(second, other)
            common = [node for node in _picked_from(left) if node in _picked_from(right)]
            if common and left is not right:
                cos, sin = m.operand(first, 1 - side), m.operand(second, 1 - other)
                width = 2 * int(m.shape(left)[-1])
                return common[0], cos, sin, _joined(anchor, len(m.shape(left)), width)
    m.unrelated(anchor)


def _joined(node: Node, rank: int, width: int) -> Node:
    """The join of both halves below ``node``."""
    while len(m.shape(node)) != rank or m.shape(node)[-1] != width:
        node = m.sole_user(node, *_JOINS)
    return node


def _picked_from(node: Node) -> list[Node]:
    """The node and what it was picked from, nearest first."""
    chain = [node]
    while m.is_op(node, *_PICKS):
        node = m.operand(node, 0)
        chain.append(node)
    return chain


def _with_passed_part(part: Node, rotated: Node) -> tuple[Node, Node]:
    """(x, root) with the entries that pass unchanged, where there are such."""
    width = m.shape(rotated)[-1]
    for user in m.users(rotated, "aten.cat"):
        pieces = m.argument(user, 0)
        if not isinstance(pieces, (list, tuple)) or len(pieces) != 2 or pieces[0] is not rotated:
            continue
        passed = pieces[1]
        sources = _picked_from(part)[:2]
        if m.is_op(passed, "aten.slice") and m.operand(passed, 0) in sources:
            m.require(
                len(rotated.users) == 1,
                rotated,
                "a value inside the rotation is also read elsewhere",
            )
            return m.operand(passed, 0), user
    m.require(
        m.shape(part)[-1] == width,
        rotated,
        "the entries after the rotated ones must pass unchanged",
    )
    return part, rotated


def rewrite(rewriter: Rewriter, matched: Rope) -> None:
    rotation = matched.rotation
    x = token_major(rewriter, rotation.x) if rotation.heads_first else rotation.x
    arguments = (
        x,
        rotation.positions,
        rotation.frequencies,
        rotation.interleaved,
        rotation.scaling,
    )
    new = rewriter.call(ROPE.overload, arguments, replaces=(matched.anchor, rotation.root))
    if rotation.heads_first:
        new = to_heads_first(rewriter, new, rotation.root)
    rewriter.replace(rotation.root, new)


PASS = AnchorPass(
    "rope", Numerics.BITWISE, ("aten.neg", "aten.sub", "aten.view_as_real"), match, rewrite
)
