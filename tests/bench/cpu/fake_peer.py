"""A peer without a model, for a side's process: logits that a prompt's sum decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.cpu.peers import Source

VOCABULARY = 8


class Fake:
    """Sequences are running sums of their tokens."""

    prefills = True
    hashing = 0.01
    version = "fake 1"

    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        return self._logits([sum(prompt) for prompt in prompts])

    def decode(self, sequences: list[int], tokens: list[int]) -> Any:
        sequences[:], logits = self._logits(
            [old + new for old, new in zip(sequences, tokens, strict=True)]
        )
        return logits

    def release(self, sequences: list[int]) -> None:
        sequences.clear()

    def _logits(self, sums: list[int]) -> tuple[list[int], Any]:
        return sums, np.eye(VOCABULARY)[[each % VOCABULARY for each in sums]]


def load(source: Source) -> Fake:
    time.sleep(0.02)
    if source.dtype == "refused":
        raise ValueError("no such dtype")
    return Fake()
