"""rms_norm: the six to eight nodes of RMSNorm become one ``glmc.rms_norm``.

Before: cast to float32, pow 2, mean, add eps, rsqrt, mul, cast back, mul by the weight. After: one
node. Anchor: ``rsqrt``. Bitwise: the reference repeats the same operations in the same order.
Refuses when the mean is not over the last dimension, when the normalised value is used elsewhere,
or when the weight is multiplied in before the cast back (that rounds differently).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.norms import RMS_NORM
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass


@dataclass(frozen=True)
class Norm:
    x: Node
    weight: Node
    eps: float
    root: Node
    anchor: Node


def match(anchor: Node, program: Program) -> Norm:
    shifted = m.operand(anchor, 0)
    if not m.is_op(shifted, "aten.add") or not m.is_op(shifted.args[0], "aten.mean"):
        m.unrelated(anchor)
    eps = m.number(shifted.args[1])
    if eps is None:
        m.refuse(shifted, "eps must be a number")
    mean = m.operand(shifted, 0)
    hidden = _squared(m.operand(mean, 0), mean)
    rank = len(m.shape(hidden))
    dimensions = m.argument(mean, 1, "dim", [])
    m.require(
        isinstance(dimensions, list) and [axis % rank for axis in dimensions] == [rank - 1],
        mean,
        "the mean must be over the last dimension only",
    )
    m.require(bool(m.argument(mean, 2, "keepdim", False)), mean, "the mean must keep its dimension")
    m.require(m.dtype(hidden) == torch.float32, hidden, "the norm must be computed in float32")
    normalised = m.sole_user(anchor, "aten.mul")
    m.require(
        m.other_operand(normalised, anchor) is hidden,
        normalised,
        "rsqrt must multiply the value that was squared",
    )
    back = m.skip_down(normalised, m.CASTS)
    root = m.sole_user(back, "aten.mul")
    weight = m.other_operand(root, back)
    # One cast only: an earlier one may have rounded, and the op would not.
    cast = m.is_op(hidden, *m.CASTS) and m.dtype(back) != torch.float32
    x = m.operand(hidden, 0) if cast else hidden
    m.require(
        m.dtype(back) == m.dtype(x),
        back,
        "the normalised value must be cast back to the input's dtype before the weight",
    )
    m.require(program.weight_of(weight) is not None, root, "the scale must be a model weight")
    m.require(m.shape(weight) == (m.shape(x)[-1],), root, "the weight must be as wide as the input")
    m.require(m.dtype(root) == m.dtype(x), root, "weight and input must have the same dtype")
    return Norm(x, weight, float(eps), root, anchor)


def _squared(node: Node, at: Node) -> Node:
    """The value under a square, spelled as pow, mul by itself or square."""
    m.expect_op(node, at, "aten.pow", "aten.mul", "aten.square")
    base = m.operand(node, 0)
    if m.is_op(node, "aten.pow"):
        m.require(node.args[1] == 2, node, "the exponent must be 2")
    elif m.is_op(node, "aten.mul"):
        m.require(node.args[1] is base, node, "the mean must be of a value times itself")
    return base


def rewrite(rewriter: Rewriter, norm: Norm) -> None:
    new = rewriter.call(
        RMS_NORM.overload,
        (norm.x, norm.weight, norm.eps),
        replaces=(norm.anchor, norm.root),
        value=norm.root.meta["val"],
    )
    rewriter.replace(norm.root, new)


PASS = AnchorPass("rms_norm", Numerics.BITWISE, ("aten.rsqrt",), match, rewrite)
