"""What Hugging Face's eager code answers for the prompts of these tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.e2e.eager import NEW_TOKENS, forced_logits, greedy, load_eager
from tests.e2e.grid import VOCABULARY

__all__ = [
    "LENGTHS",
    "NEW_TOKENS",
    "describe_difference",
    "forced_logits",
    "greedy",
    "load_eager",
    "prompts",
]

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 22, 29, 33, 37, 40)
"""Ragged: around a bucket of 4 and of 16, and around one, two and three blocks of 16."""


def prompts(seed: int = 5, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    """Random token ids, none of them an end."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def describe_difference(
    model: Any, text: Sequence[int], expected: Sequence[int], found: Sequence[int]
) -> str:
    """Where two continuations part, and how close the model's two best logits are there."""
    pairs = zip(expected, found, strict=True)
    place = next((index for index, (one, two) in enumerate(pairs) if one != two), None)
    if place is None:
        return "the same"
    logits = forced_logits(model, [*text, *expected[:place]], len(text) + place)[-1]
    best = logits.topk(2)
    return (
        f"prompt of {len(text)}, new token {place}: {expected[place]} expected, {found[place]} "
        f"found; the two best logits are {float(best.values[0] - best.values[1]):.3g} apart, "
        f"expected and found {float(logits[expected[place]] - logits[found[place]]):.3g}, "
        f"logits deviate by {float(logits.std()):.3g}"
    )
