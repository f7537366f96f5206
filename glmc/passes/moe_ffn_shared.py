"""moe_ffn_shared: the routed experts and the shared expert become one node.

Before: ``shared_expert(x, ..., moe_ffn(x, ...))``. After: ``glmc.moe_ffn_shared``, for a target
that runs the shared expert as one more expert in the same launches. Anchor:
``glmc.shared_expert``. Reordered, as the sum over the experts is.

Refuses a routed result that is read elsewhere and experts of two different inputs.

Safe where both experts read one input and the routed result has no other reader; two inputs would
make it unsafe. Pays in decode, where the shared expert's launches cost more than its work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.moe import MOE_FFN_SHARED
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "moe_ffn_shared"
_RESHAPES = ("aten.reshape", "aten.view")


@dataclass(frozen=True)
class Experts:
    """``between``: reshapes from the routed result to the shape that the shared expert adds in."""

    routed: Node
    between: tuple[Node, ...]
    shared: Node


def match(anchor: Node, program: Program) -> Experts:
    shaped = m.operand(anchor, 3)
    routed = m.skip(shaped, _RESHAPES)
    if not m.is_op(routed, "glmc.moe_ffn"):
        m.unrelated(anchor)
    between = []
    node = shaped
    while node is not routed:
        between.append(node)
        node = m.operand(node, 0)
    alone = all(len(node.users) == 1 for node in (routed, *between))
    m.require(alone, routed, "the routed experts are also read elsewhere")
    same = m.skip(m.operand(anchor, 0), m.SHAPES) is m.skip(m.operand(routed, 0), m.SHAPES)
    m.require(same, anchor, "the shared expert must read what the routed ones read")
    return Experts(routed, tuple(between), anchor)


def rewrite(rewriter: Rewriter, matched: Experts) -> None:
    arguments = (*m.arguments(matched.routed), *m.arguments(matched.shared)[1:3])
    new = rewriter.call(
        MOE_FFN_SHARED.overload,
        arguments,
        replaces=(matched.routed, matched.shared),
        value=matched.routed.meta["val"],
    )
    if matched.between:
        last = matched.between[0]
        new = rewriter.call(
            torch.ops.aten.reshape.default,
            (new, m.argument(last, 1)),
            replaces=matched.between,
            before=matched.shared,
            value=matched.shared.meta["val"],
        )
    rewriter.replace(matched.shared, new)


PASS = AnchorPass(NAME, Numerics.REORDERED, ("glmc.shared_expert",), match, rewrite)
