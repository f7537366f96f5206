"""Where a product's sum is cut, for bits that do not depend on the number of ranks.

The summed dimension is cut into eight segments, each a sum of its own, joined by the tree of
neighbours: ((0+1)+(2+3))+((4+5)+(6+7)). One that ranks share is dealt to eight, with zeros where it
does not divide (:class:`~glmc.passes.shard.Shard`), and a rank of fewer has neighbours: it computes
its part of the tree, and a reduction that pairs rank r with r xor 1, then 2, then 4 goes on with
it. One that each rank has all of is cut into equal segments, fewer where it has no eight.
"""

from __future__ import annotations

from typing import NamedTuple

from glmc.ir.layout import Layout
from glmc.ir.recipe import Dealt, Recipe
from glmc.lowering.target import Emitter, Value
from glmc.lowering.values import as_rows

MOST_SEGMENTS = 8


class Sums(NamedTuple):
    """A product's sum as ``segments`` of ``length`` elements. ``partial``: other ranks have the
    rest of it."""

    segments: int
    length: int
    partial: bool


def sums_of(emit: Emitter, weight: Value) -> Sums:
    """How a product with ``weight`` [..., k] sums over k."""
    depth = weight.dim(-1)
    if emit.options.deterministic != "ranks":
        return Sums(1, depth, False)
    layout = _layout(emit.recipe(weight).recipe, len(weight.shape) - 1)
    if layout is not None:
        segments = MOST_SEGMENTS // layout.ranks
        return Sums(segments, depth // segments, layout.ranks > 1)
    segments = next(count for count in (8, 4, 2, 1) if depth % count == 0)
    return Sums(segments, depth // segments, False)


def whole_product(emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value) -> None:
    """``out = x @ weight.T (+ bias)``, rounded once."""
    sums = sums_of(emit, weight)
    emit.call(
        "ordered.linear",
        writes=("out",),
        x=as_rows(x),
        weight=weight,
        bias=bias,
        out=as_rows(out),
        segments=sums.segments,
        length=sums.length,
    )


def partial_product(emit: Emitter, x: Value, weight: Value, out: Value) -> None:
    """The same without bias, out in float32."""
    sums = sums_of(emit, weight)
    emit.call(
        "ordered.partial",
        writes=("out",),
        x=as_rows(x),
        weight=weight,
        out=as_rows(out),
        segments=sums.segments,
        length=sums.length,
    )


def _layout(recipe: Recipe, axis: int) -> Layout | None:
    """How the ranks share ``axis``; None where each has all of it."""
    if not isinstance(recipe, Dealt):
        return None
    return recipe.layout if recipe.axis == axis else _layout(recipe.recipe, axis)
