"""qk_norm: the norm of each head and the rotation after it become one ``glmc.norm_rope``.

Before: ``glmc.rope(glmc.rms_norm(x, weight, eps), ...)`` with x [batch, tokens, heads, head_dim].
After: ``glmc.norm_rope``. Two matches per layer of a model with qk-norm. Anchor: ``glmc.rope``.
Bitwise: the new op's reference is the two old ones. Refuses when the normed value is read
elsewhere, and when the norm is over the whole projection instead of each head.

Safe where the norm is of each head and its result is rotated alone; a norm over the whole
projection or another reader would make it unsafe. Pays always: each head is read and written once
instead of twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.rotary import NORM_ROPE
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

_SHAPES = (*m.SHAPES, "aten.permute")


@dataclass(frozen=True)
class NormedRope:
    norm: Node
    rope: Node


def match(anchor: Node, program: Program) -> NormedRope:
    norm = m.operand(anchor, 0)
    if not m.is_op(norm, "glmc.rms_norm"):
        above = m.skip(norm, _SHAPES)
        if above is norm or not m.is_op(above, "glmc.rms_norm"):
            m.unrelated(anchor)
        m.require(
            m.shape(above)[-1] == m.shape(anchor)[-1],
            above,
            "the norm must be over each head, not over the whole projection",
        )
        m.refuse(above, "the norm must be of [batch, tokens, heads, head_dim]")
    m.require(len(norm.users) == 1, norm, "the normed value is also read elsewhere")
    return NormedRope(norm, anchor)


def rewrite(rewriter: Rewriter, matched: NormedRope) -> None:
    x, weight, eps = m.arguments(matched.norm)
    arguments = (x, weight, eps, *m.arguments(matched.rope)[1:])
    new = rewriter.call(NORM_ROPE.overload, arguments, replaces=(matched.rope, matched.norm))
    rewriter.replace(matched.rope, new)


PASS = AnchorPass("qk_norm", Numerics.BITWISE, ("glmc.rope",), match, rewrite)
