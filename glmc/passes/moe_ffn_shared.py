"""moe_ffn_shared: the routed experts and the shared expert become one node.

Before: ``shared_expert(x, ..., moe_ffn(x, ...))``. After: ``glmc.moe_ffn_shared``, for a target
that runs the shared expert as one more expert in the same launches. Anchor:
``glmc.shared_expert``. Reordered, as the sum over the experts is.

Refuses a routed result that is read elsewhere and experts of two different inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.moe import MOE_FFN_SHARED
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "moe_ffn_shared"


@dataclass(frozen=True)
class Experts:
    routed: Node
    shared: Node


def match(anchor: Node, program: Program) -> Experts:
    routed = m.operand(anchor, 3)
    if not m.is_op(routed, "glmc.moe_ffn"):
        m.unrelated(anchor)
    m.require(len(routed.users) == 1, routed, "the routed experts are also read elsewhere")
    same = m.operand(anchor, 0) is m.operand(routed, 0)
    m.require(same, anchor, "the shared expert must read what the routed ones read")
    return Experts(routed, anchor)


def rewrite(rewriter: Rewriter, found: Experts) -> None:
    arguments = (*found.routed.args, *found.shared.args[1:3])
    new = rewriter.call(
        MOE_FFN_SHARED.overload,
        arguments,
        replaces=(found.routed, found.shared),
        value=found.shared.meta["val"],
    )
    rewriter.replace(found.shared, new)


PASS = AnchorPass(NAME, Numerics.REORDERED, ("glmc.shared_expert",), match, rewrite)
