"""Where a product's sum is cut, for bits that do not depend on the number of ranks.

The summed dimension is cut into eight equal segments (fewer where it has no eight equal ones), each
a sum of its own, joined by the tree of neighbours: ((0+1)+(2+3))+((4+5)+(6+7)). A rank that has a
run of them computes that part of the tree, and a reduction that pairs rank r with r xor 1, then 2,
then 4 goes on with it. So the tree is one for every number of ranks; zeros that a layout fills up
with change no sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

from glmc.errors import LoweringError
from glmc.ir.layout import Layout, Run
from glmc.ir.recipe import Dealt, Recipe
from glmc.lowering.target import Emitter, Value
from glmc.lowering.values import as_rows

MOST_SEGMENTS = 8
Tree = Union[int, tuple["Tree", "Tree"], None]
"""Segments by number, pairs of trees, None for zeros."""


class Sums(NamedTuple):
    """A product's sum as ``segments`` of ``length`` elements. ``partial``: other ranks have the
    rest of it."""

    segments: int
    length: int
    partial: bool


def sums_of(emit: Emitter, weight: Value, place: str) -> Sums:
    """How a product with ``weight`` [..., k] sums over k.

    Raises LoweringError where the ranks' parts of k do not make one tree.
    """
    depth = weight.dim(-1)
    if emit.options.deterministic != "ranks":
        return Sums(1, depth, False)
    layout = _layout(emit.recipe(weight).recipe, len(weight.shape) - 1)
    whole = depth if layout is None else layout.entries
    segments = next(count for count in (8, 4, 2, 1) if whole % count == 0)
    length = whole // segments
    if layout is None:
        return Sums(segments, length, False)
    if not _is_one_tree(layout, length, segments):
        raise LoweringError(
            f"the parts of {weight.name} that {layout.ranks} ranks have are summed in another "
            "order than on one rank",
            place=place,
            expected=f"{whole} elements dealt in whole segments of {length}, neighbours together",
            found=str([tuple(run) for run in layout.runs(0)]),
            remedy="choose another --tensor-parallel, or --deterministic without =ranks",
        )
    return Sums(max(layout.local // length, 1), min(length, layout.local), True)


def whole_product(
    emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value, place: str
) -> None:
    """``out = x @ weight.T (+ bias)``, rounded once."""
    sums = sums_of(emit, weight, place)
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


def partial_product(emit: Emitter, x: Value, weight: Value, out: Value, place: str) -> None:
    """The same without bias, out in float32."""
    sums = sums_of(emit, weight, place)
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


def _is_one_tree(layout: Layout, length: int, segments: int) -> bool:
    """Whether the ranks' trees, joined by rank, are the tree of the whole."""
    parts = [_segments(layout.runs(rank), length) for rank in range(layout.ranks)]
    counts = {0 if part is None else len(part) for part in parts} | {layout.ranks}
    if any(count & (count - 1) or not count for count in counts):
        return False
    return _tree([_tree(part or []) for part in parts]) == _tree(list(range(segments)))


def _segments(runs: Sequence[Run], length: int) -> list[Tree] | None:
    """The segments that runs of entries are, in order; None where they cut one."""
    found: list[Tree] = []
    for run in runs:
        whole = run.length % length == 0 and (run.start is None or run.start % length == 0)
        if not whole:
            return None
        for number in range(run.length // length):
            found.append(None if run.start is None else run.start // length + number)
    return found


def _tree(leaves: Sequence[Tree]) -> Tree:
    """The tree of neighbours over a power of two of leaves, without what is zero."""
    while len(leaves) > 1:
        pairs = zip(leaves[::2], leaves[1::2], strict=True)
        leaves = [
            right if left is None else left if right is None else (left, right)
            for left, right in pairs
        ]
    return leaves[0] if leaves else None
