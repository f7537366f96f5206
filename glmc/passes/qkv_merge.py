"""qkv_merge: the three projections before one attention become one.

Before: three ``glmc.linear`` of one value that lead, through reshapes, norms and rotations, to q, k
and v of one ``glmc.attention``, or of a ``glmc.masked_attention`` through the cache. After: one
``glmc.linear`` with the rows of q, k and v below each other (recipe Concatenate), and a slice for
each. One match per layer; a model that is stored with one projection has nothing to merge. Anchor:
the attention. Pays wherever a launch or a pass over the input costs: three products become one.
Reordered: a library may sum a wider product otherwise.
A projection without a bias beside others that have one gets a bias of zeros, which is exact.
Refuses when the weights are no plain weights of one dtype, and when a projection is read elsewhere.

Safe where the three products read one value and their results go to one attention; a projection
that is read elsewhere, or weights of two dtypes, would make it unsafe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import LINEAR
from glmc.ir.program import Program
from glmc.ir.recipe import Concatenate, Constant, Weight
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

_BETWEEN = ("glmc.rope", "glmc.norm_rope", "glmc.rms_norm", "aten.permute", *m.SHAPES)


@dataclass(frozen=True)
class Projections:
    """``bias`` is None when none of the three has one; zeros stand for those that lack it."""

    linears: tuple[Node, ...]
    weight: Weight
    bias: Weight | None


def match(anchor: Node, program: Program) -> Projections:
    linears = tuple(_projection(m.operand(anchor, index)) for index in range(3))
    parts = [m.skip(node, ("aten.slice",)) for node in linears]
    if len(set(parts)) == 1 and m.is_op(parts[0], "glmc.linear"):
        m.unrelated(anchor)
    for node in linears:
        m.expect_op(node, anchor, "glmc.linear")
    m.require(len(set(linears)) == 3, anchor, "q, k and v must have a projection each")
    first = linears[0]
    for node in linears:
        m.require(
            m.argument(node, 0) is m.argument(first, 0),
            node,
            "q, k and v must be projected from one value",
        )
        m.require(len(node.users) == 1, node, "the projection is also read elsewhere")
    module = f"{_owner(anchor, first, program)}.qkv_proj"
    weight = _merged(program, linears, 1, f"{module}.weight")
    biased = any(m.argument(node, 2) is not None for node in linears)
    bias = _merged(program, linears, 2, f"{module}.bias") if biased else None
    return Projections(linears, weight, bias)


def _projection(node: Node) -> Node:
    """What q, k or v is made of; of keys and values in a cache, what was written last."""
    node = m.skip(node, _BETWEEN)
    if m.is_op(node, "aten.index_copy"):
        return m.skip(m.operand(node, 3), _BETWEEN)
    if m.is_op(node, "aten.cat"):
        parts = m.argument(node, 0)
        if isinstance(parts, (list, tuple)) and isinstance(parts[-1], Node):
            return m.skip(parts[-1], _BETWEEN)
    return node


def _owner(anchor: Node, linear: Node, program: Program) -> str:
    """The attention's module: the parent of the projection's."""
    weight = program.weight_of(m.argument(linear, 1))
    if weight is None:
        m.refuse(linear, "the projection must be a model weight")
    return weight.name.rpartition(".")[0].rpartition(".")[0] or str(anchor.meta["module"])


def _merged(program: Program, linears: tuple[Node, ...], index: int, name: str) -> Weight:
    weights: list[Weight] = []
    for node in linears:
        if m.argument(node, index) is None:
            weights.append(_zeros(node, name))
            continue
        weight = program.weight_of(m.argument(node, index))
        if weight is None:
            m.refuse(node, "the projection must be a model weight")
        weights.append(weight)
    first = weights[0]
    for node, weight in zip(linears, weights, strict=True):
        m.require(weight.dtype == first.dtype, node, "the projections must have one dtype")
        m.require(weight.shape[1:] == first.shape[1:], node, "the projections must fit together")
    rows = sum(weight.shape[0] for weight in weights)
    recipe = Concatenate(tuple(weight.recipe for weight in weights))
    return Weight(name, (rows, *first.shape[1:]), first.dtype, recipe)


def _zeros(linear: Node, name: str) -> Weight:
    """The bias of a projection that has none, beside others that have one."""
    width = m.shape(linear)[-1]
    m.require(m.is_static(width), linear, "the projection must have a fixed width")
    rows = int(width)
    return Weight(name, (rows,), m.dtype(linear), Constant((0.0,) * rows))


def rewrite(rewriter: Rewriter, matched: Projections) -> None:
    first = matched.linears[0]
    weight = rewriter.weight(matched.weight)
    bias = None if matched.bias is None else rewriter.weight(matched.bias)
    merged = rewriter.call(
        LINEAR.overload,
        (m.argument(first, 0), weight, bias),
        replaces=matched.linears,
        before=first,
    )
    merged.meta["id"] = f"{matched.weight.name.removesuffix('.weight')}#linear"
    axis, start = len(m.shape(merged)) - 1, 0
    for node in matched.linears:
        stop = start + int(m.shape(node)[axis])
        arguments = (merged, axis, start, stop)
        part = rewriter.call(torch.ops.aten.slice.Tensor, arguments, replaces=(node,), before=node)
        rewriter.replace(node, part)
        start = stop


PASS = AnchorPass(
    "qkv_merge", Numerics.REORDERED, ("glmc.attention", "glmc.masked_attention"), match, rewrite
)
