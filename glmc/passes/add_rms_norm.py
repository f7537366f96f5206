"""add_rms_norm: a residual addition and the norm after it become one node with two results.

Before: ``total = stream + branch``, a ``glmc.rms_norm`` of the total, and the next addition reading
the total again. After: ``glmc.add_rms_norm(branch, stream)`` with both results, so the stream is
read and written once. Anchor: ``glmc.rms_norm``. Bitwise: addition is commutative, and the
reference adds and normalises as before.

Which operand is the stream is told by where it comes from (the embedding, a hidden state that is a
step input, or an earlier total), because the memory plan overwrites that one in place. Norms of
the heads and norms of a branch (``glm4`` has two a layer) are no candidates. Refuses a scaled or
broadcasting addition, mixed dtypes, and sums without exactly one stream operand.

Safe where both operands have one shape and dtype and exactly one is the stream; a scale, a
broadcast or a cast in the addition would make it unsafe. Pays in every layer: one launch less, and
the stream is read and written once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.norms import ADD_RMS_NORM
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

_FUSED = "glmc.add_rms_norm"


@dataclass(frozen=True)
class ResidualNorm:
    branch: Node
    stream: Node
    total: Node
    anchor: Node


def match(anchor: Node, program: Program) -> ResidualNorm:
    total = m.operand(anchor, 0)
    if not m.is_op(total, "aten.add") or len(total.all_input_nodes) != 2:
        m.unrelated(anchor)
    if m.shape(anchor)[-1] != program.model.hidden:
        m.unrelated(anchor)
    first, second = m.operand(total, 0), m.operand(total, 1)
    alpha = m.argument(total, 2, "alpha", 1)
    m.require(alpha == 1, total, "the residual addition must be unscaled")
    m.require(m.same_shape(first, second), total, "the residual addition must not broadcast")
    m.require(
        m.dtype(first) == m.dtype(second), total, "stream and branch must have the same dtype"
    )
    streams = [node for node in (first, second) if is_stream(node)]
    m.require(
        len(streams) == 1, total, f"one operand must be the residual stream, not {len(streams)}"
    )
    return ResidualNorm(m.other_operand(total, streams[0]), streams[0], total, anchor)


def is_stream(node: Node) -> bool:
    """Whether a value is the running residual stream.

    An addition that kept its own node (nothing normalises it, or its match was refused) carries
    the stream on when one of its operands is the stream.
    """
    todo = [node]
    while todo:
        current = todo.pop()
        if m.is_op(current, "glmc.embedding") or "input" in current.meta:
            return True
        if m.is_op(current, "getitem") and m.is_op(m.argument(current, 0), _FUSED):
            return m.number(m.argument(current, 1)) == 1
        if m.is_op(current, "aten.add"):
            todo.extend(value for value in m.arguments(current) if isinstance(value, Node))
    return False


def rewrite(rewriter: Rewriter, norm: ResidualNorm) -> None:
    arguments = (norm.branch, norm.stream, *m.arguments(norm.anchor)[1:])
    new = rewriter.call(ADD_RMS_NORM.overload, arguments, replaces=(norm.anchor, norm.total))
    rewriter.replace(norm.anchor, rewriter.item(new, 0))
    rewriter.replace(norm.total, rewriter.item(new, 1))


PASS = AnchorPass("add_rms_norm", Numerics.BITWISE, ("glmc.rms_norm",), match, rewrite)
