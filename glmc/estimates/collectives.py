"""Seconds of a collective by each algorithm, from what a message costs.

``ranks`` P, ``size`` bytes S of the whole message; the costs are those of the textbooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log2

from glmc.estimates.device import Band, Device

Seconds = Callable[[int, float, float, float], float]


def _butterfly(ranks: int, size: float, alpha: float, beta: float) -> float:
    return ceil(log2(ranks)) * (alpha + size * beta)


def _halving_doubling(ranks: int, size: float, alpha: float, beta: float) -> float:
    return 2 * ceil(log2(ranks)) * alpha + 2 * size * beta * (ranks - 1) / ranks


def _ring(ranks: int, size: float, alpha: float, beta: float) -> float:
    return 2 * (ranks - 1) * alpha + 2 * size * beta * (ranks - 1) / ranks


def _one_shot(ranks: int, size: float, alpha: float, beta: float) -> float:
    return alpha + (ranks - 1) * size * beta


ALL_REDUCE: Mapping[str, Seconds] = {
    "library": _ring,
    "butterfly": _butterfly,
    "halving_doubling": _halving_doubling,
    "ring": _ring,
    "one_shot": _one_shot,
}
"""An all-reduce by algorithm. What a library does is its own affair: a ring is assumed of it."""
ALGORITHMS = tuple(ALL_REDUCE)


def algorithm_of(bands: tuple[Band, ...], size: float) -> str:
    """The algorithm that a table has for a message."""
    return next(band.algorithm for band in bands if band.below is None or size < band.below)


def all_reduce_seconds(device: Device, ranks: int, size: float, algorithm: str) -> float:
    """Seconds of an all-reduce of ``size`` bytes."""
    if ranks == 1:
        return 0.0
    links = device.links
    return ALL_REDUCE[algorithm](ranks, size, links.alpha.value, links.beta.value)


def gather_seconds(device: Device, ranks: int, size: float) -> float:
    """Seconds of an all-gather that gives every rank ``size`` bytes, or of a reduce-scatter of so
    many: every rank passes on its part."""
    links = device.links
    return (ranks - 1) * (links.alpha.value + size / ranks * links.beta.value)
