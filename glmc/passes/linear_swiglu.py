"""linear_swiglu: a merged gate and up projection and its activation become one node.

Before: ``swiglu(linear(x, gate_up, None))``. After: ``glmc.linear_swiglu``, for a target that
activates in the product's epilogue, so that the projection is never written. Anchor: ``swiglu``.
Bitwise: the reference repeats both operations.

Refuses a bias, and a projection that is read elsewhere.

Safe where the projection is read by the activation alone; another reader or a bias would make it
unsafe. Pays where the target activates in the product's epilogue: the projection, twice as wide as
the result, is neither written nor read.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import LINEAR_SWIGLU
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "linear_swiglu"


@dataclass(frozen=True)
class Activated:
    linear: Node
    swiglu: Node


def match(anchor: Node, program: Program) -> Activated:
    linear = m.operand(anchor, 0)
    if not m.is_op(linear, "glmc.linear"):
        m.unrelated(anchor)
    m.require(m.argument(linear, 2) is None, linear, "the projection must have no bias")
    m.require(len(linear.users) == 1, linear, "the projection is also read elsewhere")
    return Activated(linear, anchor)


def rewrite(rewriter: Rewriter, matched: Activated) -> None:
    new = rewriter.call(
        LINEAR_SWIGLU.overload,
        m.arguments(matched.linear)[:2],
        replaces=(matched.linear, matched.swiglu),
        value=matched.swiglu.meta["val"],
    )
    rewriter.replace(matched.swiglu, new)


PASS = AnchorPass(NAME, Numerics.BITWISE, ("glmc.swiglu",), match, rewrite)
