"""What both sides are given: prompts of random tokens, and requests that arrive.

Numbers are drawn from seeds, so that each side gets the same ones in the same round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST = 100  # ids below are special in some vocabularies


@dataclass(frozen=True)
class Request:
    """A request that arrives ``after`` seconds and wants ``new`` tokens."""

    after: float
    prompt: list[int]
    new: int


@dataclass(frozen=True)
class Traffic:
    """Requests whose prompts are ``shortest`` to ``longest`` tokens long. Each begins with one of
    ``prefixes`` texts of ``prefix`` tokens. They want ``fewest`` to ``most`` tokens."""

    requests: int = 256
    shortest: int = 100
    longest: int = 3000
    prefixes: int = 8
    prefix: int = 512
    fewest: int = 32
    most: int = 256

    def drawn(self, vocabulary: int, seed: int, rate: float | None) -> list[Request]:
        """Arrivals of a Poisson process of ``rate`` requests a second; all at once for None."""
        draw = random.Random(seed)
        shared = random.Random(0)
        heads = [tokens(shared, vocabulary, self.prefix) for _ in range(self.prefixes)]
        after, made = 0.0, []
        for _ in range(self.requests):
            length = draw.randint(self.shortest, self.longest)
            head = draw.choice(heads)[: length - 1]
            prompt = head + tokens(draw, vocabulary, length - len(head))
            made.append(Request(after, prompt, draw.randint(self.fewest, self.most)))
            after += draw.expovariate(rate) if rate else 0.0
        return made


def prompts(vocabulary: int, seed: int, count: int, length: int) -> list[list[int]]:
    """Prompts that have nothing in common."""
    draw = random.Random(seed)
    return [tokens(draw, vocabulary, length) for _ in range(count)]


def unlike_prompts(vocabulary: int, seed: int, lengths: Sequence[int]) -> list[list[int]]:
    """A prompt of each length, each of a seed of its own: prompts of one seed begin alike, and
    would be in a cache. Nor has another ``seed`` any of them for as many lengths."""
    first = seed * len(lengths)
    return [
        prompt
        for place, length in enumerate(lengths)
        for prompt in prompts(vocabulary, first + place, 1, length)
    ]


def tokens(draw: random.Random, vocabulary: int, count: int) -> list[int]:
    return draw.choices(range(min(_FIRST, vocabulary // 2), vocabulary), k=count)
