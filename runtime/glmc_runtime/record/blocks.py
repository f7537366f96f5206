"""Parts of a tensor that are small enough to be converted and copied one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

ELEMENTS = 1 << 22
"""Of a part: 32 MiB in float64."""


def blocks(shape: Sequence[int], largest: int = ELEMENTS) -> Iterator[tuple[slice, ...]]:
    """Slices that cover a tensor in row-major order, ``largest`` elements each at most."""
    if prod(shape) <= largest:
        yield tuple(slice(0, size) for size in shape)
        return
    first, rest = shape[0], shape[1:]
    below = prod(rest)
    if below > largest:
        inner = list(blocks(rest, largest))
        for index in range(first):
            for slices in inner:
                yield (slice(index, index + 1), *slices)
        return
    count = largest // below
    for begin in range(0, first, count):
        end = min(begin + count, first)
        yield (slice(begin, end), *(slice(0, size) for size in rest))
