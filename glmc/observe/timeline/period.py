"""The repeating period of a sequence: the layers of a step whose file names no modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

REPEATS = 3
"""A period counts from so many repetitions on, and only where it covers half of the sequence."""
SHORTEST = 4
_CANDIDATES = 40
_ALIKE = 0.98


@dataclass(frozen=True)
class Period:
    """``length`` tokens repeat ``repeats`` times from ``start`` on."""

    length: int
    start: int
    repeats: int


def find_period(tokens: Sequence[str]) -> Period | None:
    """The period that covers most of a sequence, and of those that cover as much the shortest."""
    found: list[tuple[int, Period]] = []
    for length in _lengths(tokens):
        start, run = _longest_run(tokens, length)
        covered = run + length
        varied = len(set(tokens[start : start + length])) > 1
        if varied and covered // length >= REPEATS and 2 * covered >= len(tokens):
            found.append((covered, Period(length, start, covered // length)))
    most = max((covered for covered, _ in found), default=0)
    alike = (period for covered, period in found if covered >= _ALIKE * most)
    return min(alike, key=lambda period: period.length, default=None)


def _lengths(tokens: Sequence[str]) -> list[int]:
    """Distances between equal tokens, those that would cover most first."""
    places: dict[str, list[int]] = {}
    for at, token in enumerate(tokens):
        places.setdefault(token, []).append(at)
    longest = len(tokens) // REPEATS
    distances = Counter(
        distance
        for some in places.values()
        for before, after in pairwise(some)
        if SHORTEST <= (distance := after - before) <= longest
    )
    ranked = sorted(distances, key=lambda length: (-distances[length] * length, length))
    return ranked[:_CANDIDATES]


def _longest_run(tokens: Sequence[str], length: int) -> tuple[int, int]:
    """Where the longest run of tokens that equal the one a period later begins, and its length."""
    best = begun = 0, 0
    start = 0
    for at in range(len(tokens) - length + 1):
        if at < len(tokens) - length and tokens[at] == tokens[at + length]:
            continue
        if at - start > best[1]:
            best = start, at - start
        start = at + 1
    return best if best[1] else begun
