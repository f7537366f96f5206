"""all_reduce_add_rms_norm: the sum over the ranks joins the residual addition and norm after it.

Before: ``add_rms_norm(all_reduce(branch), stream)``, twice a layer of a dealt model. After:
``glmc.all_reduce_add_rms_norm`` with both results, for a target that has a rule for it. Anchor:
``glmc.add_rms_norm``. Bitwise: the reference repeats both operations.

Refuses a sum that is read elsewhere, as a sandwich norm of ``glm4`` does.

Safe where the sum goes into the addition alone; another reader of it would make it unsafe. Pays
where a call costs: one less twice a layer. No target adds and norms in one pass over the memory
yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.collectives import ALL_REDUCE_ADD_RMS_NORM
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "all_reduce_add_rms_norm"


@dataclass(frozen=True)
class Summed:
    all_reduce: Node
    add_norm: Node


def match(anchor: Node, program: Program) -> Summed:
    total = m.operand(anchor, 0)
    if not m.is_op(total, "glmc.all_reduce"):
        m.unrelated(anchor)
    m.require(len(total.users) == 1, total, "the sum over the ranks is also read elsewhere")
    return Summed(total, anchor)


def rewrite(rewriter: Rewriter, matched: Summed) -> None:
    arguments = (*m.arguments(matched.all_reduce), *m.arguments(matched.add_norm)[1:])
    new = rewriter.call(
        ALL_REDUCE_ADD_RMS_NORM.overload,
        arguments,
        replaces=(matched.add_norm, matched.all_reduce),
        value=matched.add_norm.meta["val"],
    )
    rewriter.replace(matched.add_norm, new)


PASS = AnchorPass(NAME, Numerics.BITWISE, ("glmc.add_rms_norm",), match, rewrite)
