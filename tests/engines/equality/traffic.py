"""What is asked of an engine, and the limits under which it has to chunk, share and take back."""

from __future__ import annotations

import random

PREFILL = (16, 48)
DECODE = (1, 4, 12)
BLOCK = 16
CONTEXT = 128
CHUNK = 32
"""New tokens of prompts in a step; the longest prompts come in two."""
SEQUENCES = DECODE[-1]
POOL = 40 * BLOCK
"""Tokens in the KV cache. Twelve sequences that come to an end need half as much again."""
LENGTHS = (1, 2, 3, 5, 8, 11, 15, 16, 17, 22, 31, 32, 33, 40, 47, 56)
SHARED = 33
TEXTS = 32


def prompts(vocabulary: int, count: int = TEXTS, seed: int = 5) -> list[list[int]]:
    """Ragged prompts of random tokens, none of them an end; each second one begins with the same
    33 tokens, which are two blocks and one token."""
    chance = random.Random(seed)

    def tokens(number: int) -> list[int]:
        return [chance.randrange(4, vocabulary) for _ in range(number)]

    shared, made = tokens(SHARED), []
    for place in range(count):
        length = LENGTHS[place // 2 % len(LENGTHS)]
        own = tokens(length if place % 2 == 0 else 1 + length * (56 - SHARED) // 57)
        made.append(own if place % 2 == 0 else shared + own)
    chance.shuffle(made)
    return made
