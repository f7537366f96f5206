"""silu_mul: an activation and the product after it become one ``glmc.silu_mul``.

Before: ``silu(gate) * up``, in either order. After: one node, so the activated value is never
written. Anchor: ``silu``. Bitwise: the reference repeats both operations.

Refuses when the activated value is read elsewhere, and when the product broadcasts or casts.
Halves of one value are a ``swiglu`` and belong to gate_up_merge and moe_ffn.

Safe where the product is the only reader of the activated value, in its shape and dtype; another
reader, a broadcast or a cast would make it unsafe. Pays always: the activated value is neither
written nor read.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import SILU_MUL
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass


@dataclass(frozen=True)
class Activation:
    """``result`` is the product of ``silu`` (the activated gate) and ``up``."""

    silu: Node
    gate: Node
    up: Node
    result: Node


def match(anchor: Node, program: Program) -> Activation:
    products = m.users(anchor, "aten.mul")
    gate = m.operand(anchor, 0)
    if not products or m.is_op(gate, "aten.slice"):
        m.unrelated(anchor)
    m.require(len(anchor.users) == 1, anchor, "the activated value is also read elsewhere")
    result = products[0]
    up = m.other_operand(result, anchor)
    m.require(up is not anchor, result, "the other factor must be another value")
    m.require(m.same_shape(gate, up), result, "the product must not broadcast")
    m.require(m.dtype(gate) == m.dtype(up), result, "both factors must have the same dtype")
    return Activation(anchor, gate, up, result)


def rewrite(rewriter: Rewriter, matched: Activation) -> None:
    new = rewriter.call(
        SILU_MUL.overload, (matched.gate, matched.up), replaces=(matched.result, matched.silu)
    )
    rewriter.replace(matched.result, new)


PASS = AnchorPass("silu_mul", Numerics.BITWISE, ("aten.silu",), match, rewrite)
