"""Two sets of continuations side by side: tokens compared, differing, and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.eager import forced_logits

CLOSE = 1e-3
"""Two logits of float32 that rounding may bring into the other order."""


@dataclass(frozen=True)
class Outcome:
    """``texts`` and their tokens beside others; ``left_out`` come after a close call."""

    texts: int
    compared: int
    left_out: int
    differing: int

    def __str__(self) -> str:
        return (
            f"{self.texts} texts, {self.compared} tokens compared, {self.differing} differ, "
            f"{self.left_out} left out"
        )

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.texts + other.texts,
            self.compared + other.compared,
            self.left_out + other.left_out,
            self.differing + other.differing,
        )


def judged(
    model: Any,
    texts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    found: Sequence[Sequence[int]],
) -> Outcome:
    """How two sets of continuations compare; after a close call a text goes its own way."""
    compared = left_out = differing = 0
    for text, wanted, got in zip(texts, expected, found, strict=True):
        pairs = zip(wanted, got, strict=True)
        place = next((at for at, (one, two) in enumerate(pairs) if one != two), len(wanted))
        compared += place
        if place == len(wanted):
            continue
        logits = forced_logits(model, [*text, *wanted[:place]], len(text) + place)[-1]
        best = logits.topk(2).values
        if float(best[0] - best[1]) < CLOSE:
            left_out += len(wanted) - place
        else:
            compared, differing = compared + len(wanted) - place, differing + len(wanted) - place
    return Outcome(len(texts), compared, left_out, differing)


def chosen(
    model: Any, texts: Sequence[Sequence[int]], found: Sequence[Sequence[int]]
) -> tuple[Outcome, list[str]]:
    """How continuations compare with what the model itself chooses after each of their tokens,
    and where they leave it, in words. One that never leaves it is the greedy one."""
    compared = left_out = differing = 0
    where = []
    for number, (text, got) in enumerate(zip(texts, found, strict=True)):
        logits = forced_logits(model, [*text, *got], len(text))[:-1]
        wanted = logits.argmax(-1).tolist()
        pairs = zip(wanted, got, strict=True)
        place = next((at for at, (one, two) in enumerate(pairs) if one != two), len(got))
        compared += place
        if place == len(got):
            continue
        best = logits[place].topk(2).values
        gap = float(best[0] - best[1])
        if gap < CLOSE:
            left_out += len(got) - place
            continue
        compared, differing = compared + len(got) - place, differing + len(got) - place
        where.append(
            f"text {number} of {len(text)} tokens, new token {place}: {wanted[place]} is best by "
            f"{gap:.3g}, {got[place]} was found"
        )
    return Outcome(len(texts), compared, left_out, differing), where
