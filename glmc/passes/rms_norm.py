"""rms_norm: the six to eight nodes of RMSNorm become one ``glmc.rms_norm``.

Before: cast to float32, pow 2, mean, add eps, rsqrt, mul, cast back, mul by the weight; or torch's
own ``rms_norm``. After: one node. Anchors: ``rsqrt``, ``rms_norm``, and for a reason only ``sqrt``
and ``pow``. Bitwise: the reference repeats the same operations in the same order.
Refuses when the mean is not over the last dimension, when the normalised value is used elsewhere,
when the weight is multiplied in before the cast back (that rounds differently; torch's ``rms_norm``
does so in any dtype but float32), or when the root divides or is a power.

Safe where every step rounds as the reference does and no inner value has another reader; a mean
over other dimensions, or a weight multiplied before the cast, would make it unsafe. Pays always:
six to eight passes over the hidden state become one.
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

FUSED = "aten.rms_norm"
_REDUCED = "the mean must be over the last dimension only"
_SHIFTED = "the root must be that of a mean plus a number"
_REDUCTIONS = tuple(f"aten.{name}" for name in "mean sum amax amin prod var std norm".split())
_NEAR = 6


@dataclass(frozen=True)
class Norm:
    x: Node
    weight: Node
    eps: float
    root: Node
    anchor: Node


def match(anchor: Node, program: Program) -> Norm:
    return _fused(anchor, program) if m.is_op(anchor, FUSED) else _spelled(anchor, program)


def _fused(anchor: Node, program: Program) -> Norm:
    x, eps = m.operand(anchor, 0), m.number(m.argument(anchor, 3, "eps"))
    m.require(m.argument(anchor, 1, "normalized_shape") == [m.shape(x)[-1]], anchor, _REDUCED)
    m.require(
        m.dtype(x) == torch.float32,
        anchor,
        "torch's rms_norm multiplies by the weight before it rounds, so it must be in float32",
    )
    if eps is None:
        m.refuse(anchor, "eps must be a number")
    weight = m.argument(anchor, 2, "weight")
    if not isinstance(weight, Node):
        m.refuse(anchor, "the scale must be a model weight")
    _require_weight(weight, x, anchor, program)
    return Norm(x, weight, float(eps), anchor, anchor)


def _spelled(anchor: Node, program: Program) -> Norm:
    shifted = m.argument(anchor, 0)
    exponent = m.number(m.argument(anchor, 1)) if m.is_op(anchor, "aten.pow") else None
    if exponent in (2, 3) or not isinstance(shifted, Node) or not _reduced(anchor):
        m.unrelated(anchor)
    if m.is_op(anchor, "aten.pow"):
        m.require(exponent in (0.5, -0.5), anchor, "the exponent of a root must be 0.5 or -0.5")
    m.require(m.is_op(shifted, "aten.add"), anchor, _SHIFTED)
    mean, eps = m.operand(shifted, 0), m.number(m.argument(shifted, 1))
    mean = m.skip(mean, ("aten.unsqueeze",))
    m.require(m.is_op(mean, "aten.mean"), shifted, _SHIFTED)
    m.require(
        m.is_op(anchor, "aten.rsqrt"),
        anchor,
        "the root must be rsqrt: a square root and a quotient, or a power, round differently",
    )
    if eps is None:
        m.refuse(shifted, "eps must be a number")
    hidden = _squared(m.operand(mean, 0), mean)
    rank = len(m.shape(hidden))
    dimensions = m.argument(mean, 1, "dim", [])
    m.require(
        isinstance(dimensions, list) and [axis % rank for axis in dimensions] == [rank - 1],
        mean,
        _REDUCED,
    )
    m.argument(mean, 2, "keepdim")  # as the shape says
    sizes = m.shape(m.operand(shifted, 0))
    m.require(
        len(sizes) == rank and m.is_static(sizes[-1]) and sizes[-1] == 1,
        mean,
        "the mean must keep its dimension",
    )
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
    _require_weight(weight, x, root, program)
    return Norm(x, weight, float(eps), root, anchor)


def _reduced(root: Node) -> bool:
    """Whether the operand of a root is made of a reduction, a few nodes above at most: any other
    has nothing to do with a norm."""
    level = root.all_input_nodes
    for _ in range(_NEAR):
        if any(m.is_op(node, *_REDUCTIONS) for node in level):
            return True
        level = list(dict.fromkeys(each for node in level for each in node.all_input_nodes))
    return False


def _require_weight(weight: Node, x: Node, root: Node, program: Program) -> None:
    m.require(program.weight_of(weight) is not None, root, "the scale must be a model weight")
    m.require(m.shape(weight) == (m.shape(x)[-1],), root, "the weight must be as wide as the input")
    m.require(
        m.dtype(root) == m.dtype(weight) == m.dtype(x),
        root,
        "weight and input must have the same dtype",
    )


def _squared(node: Node, at: Node) -> Node:
    """The value under a square, spelled as pow, mul by itself or square."""
    m.expect_op(node, at, "aten.pow", "aten.mul", "aten.square")
    base = m.operand(node, 0)
    if m.is_op(node, "aten.pow"):
        m.require(m.argument(node, 1) == 2, node, "the exponent must be 2")
    elif m.is_op(node, "aten.mul"):
        m.require(m.argument(node, 1) is base, node, "the mean must be of a value times itself")
    return base


def rewrite(rewriter: Rewriter, norm: Norm) -> None:
    new = rewriter.call(
        RMS_NORM.overload,
        (norm.x, norm.weight, norm.eps),
        replaces=tuple(dict.fromkeys((norm.anchor, norm.root))),
        value=norm.root.meta["val"],
    )
    rewriter.replace(norm.root, new)


PASS = AnchorPass(
    "rms_norm",
    Numerics.BITWISE,
    ("aten.rsqrt", FUSED, "aten.sqrt", "aten.pow"),
    match,
    rewrite,
)
