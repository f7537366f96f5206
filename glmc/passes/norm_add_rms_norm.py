"""norm_add_rms_norm: the norm of a branch joins the residual addition and norm after it.

Before: ``add_rms_norm(rms_norm(branch), stream)``, as the sandwich norms of ``glm4`` have it twice
a layer. After: ``glmc.norm_add_rms_norm`` with both results, for a target that does both norms in
one launch. Anchor: ``glmc.add_rms_norm``. Bitwise: the reference repeats both operations.

Refuses a normed branch that is read elsewhere.

Safe where the normed branch goes into the addition alone; another reader of it would make it
unsafe. Pays where the target has one kernel for both norms: one launch and one pass over the branch
less.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.norms import NORM_ADD_RMS_NORM
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "norm_add_rms_norm"


@dataclass(frozen=True)
class Sandwich:
    norm: Node
    add_norm: Node


def match(anchor: Node, program: Program) -> Sandwich:
    norm = m.operand(anchor, 0)
    if not m.is_op(norm, "glmc.rms_norm"):
        m.unrelated(anchor)
    m.require(len(norm.users) == 1, norm, "the normed branch is also read elsewhere")
    return Sandwich(norm, anchor)


def rewrite(rewriter: Rewriter, matched: Sandwich) -> None:
    arguments = (*m.arguments(matched.norm), *m.arguments(matched.add_norm)[1:])
    new = rewriter.call(
        NORM_ADD_RMS_NORM.overload,
        arguments,
        replaces=(matched.add_norm, matched.norm),
        value=matched.add_norm.meta["val"],
    )
    rewriter.replace(matched.add_norm, new)


PASS = AnchorPass(NAME, Numerics.BITWISE, ("glmc.add_rms_norm",), match, rewrite)
