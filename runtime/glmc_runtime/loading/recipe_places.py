"""Where the tensors of a checkpoint go: the parts of a weight's memory that its recipe fills.

A recipe is followed from the outside in: each part of it is told which window of its value is
wanted, and which view of the weight's memory it goes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from glmc_runtime.format.recipe_nodes import (
    Chosen,
    Concatenated,
    Node,
    OnFirst,
    Stacked,
    Stored,
)

Window = tuple[tuple[int, int], ...]
"""The first entry and the number of entries that are wanted, in each dimension."""


@dataclass(frozen=True)
class Place:
    """``target`` is a view of a weight that takes the ``window`` of a stored value; zeros where
    ``stored`` is None."""

    stored: Stored | None
    window: Window
    target: torch.Tensor


def whole(shape: tuple[int, ...]) -> Window:
    """The window that is all of a value."""
    return tuple((0, size) for size in shape)


def places_of(node: Node, window: Window, target: torch.Tensor, rank: int) -> Iterator[Place]:
    """The places that a window of what a recipe makes on ``rank`` is put together from, in
    ``target``, which has the window's shape. They do not overlap, and none is empty."""
    if not target.numel():
        return
    if isinstance(node, Stored):
        yield Place(node, window, target)
    elif isinstance(node, Concatenated):
        at, (start, length) = 0, window[0]
        for part in node.parts:
            low, high = max(start, at), min(start + length, at + part.shape[0])
            if low < high:
                rows = target.narrow(0, low - start, high - low)
                yield from places_of(part, ((low - at, high - low), *window[1:]), rows, rank)
            at += part.shape[0]
    elif isinstance(node, Stacked):
        start, length = window[0]
        for number in range(length):
            yield from places_of(node.parts[start + number], window[1:], target[number], rank)
    elif isinstance(node, OnFirst) and rank:
        yield Place(None, window, target)
    elif isinstance(node, OnFirst):
        yield from places_of(node.recipe, window, target, rank)
    else:
        yield from _chosen(node, window, target, rank)


def _chosen(node: Chosen, window: Window, target: torch.Tensor, rank: int) -> Iterator[Place]:
    axis, at = node.axis, 0
    first, count = window[axis]
    for start, length in node.runs[rank]:
        low, high = max(first, at), min(first + count, at + length)
        if low < high:
            part = target.narrow(axis, low - first, high - low)
            inside = (0 if start is None else start + low - at, high - low)
            placed = (*window[:axis], inside, *window[axis + 1 :])
            if start is None:
                yield Place(None, placed, part)
            else:
                yield from places_of(node.recipe, placed, part, rank)
        at += length
