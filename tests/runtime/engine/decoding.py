"""Prompts, and what is read of the sequences that decode them."""

from __future__ import annotations

from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.generate.session import Session

PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]


def started(session: Session, prompts: list[list[int]]) -> tuple[list[Sequence], list[int]]:
    """Sequences after their prefill, and the greedy token of each."""
    sequences = [session.sequence(prompt) for prompt in prompts]
    return sequences, session.prefill(sequences).argmax(-1).tolist()


def state(sequences: list[Sequence]) -> list[tuple[list[int], int]]:
    """Tokens, and how many of them are in the cache."""
    return [(list(sequence.tokens), sequence.cached) for sequence in sequences]


def block_counts(sequences: list[Sequence]) -> list[int]:
    return [len(sequence.blocks) for sequence in sequences]
