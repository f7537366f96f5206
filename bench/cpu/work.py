"""What every contender of a CPU benchmark is given, and what memory could do at that time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

PROMPT, LONGEST = 64, 256


@dataclass(frozen=True)
class Work:
    """Steps of so many sequences, or a prefill of so many tokens; ``rounds`` are those counted."""

    kind: str  # "decode" or "prefill"
    size: int
    rounds: int
    steps: int = 1

    @property
    def title(self) -> str:
        return f"{self.kind} {self.size}"


def bandwidth(clock: Callable[[], float]) -> float:
    """Bytes per second that all threads together read: best of ten sums over 1 GiB."""
    return Reads(clock, 1 << 30).best(10)


class Reads:
    """Plain sums over memory of its own, to be taken again and again."""

    def __init__(self, clock: Callable[[], float], bytes_read: int = 1 << 28) -> None:
        self._clock, self._data = clock, torch.ones(bytes_read // 4)

    def best(self, passes: int = 4) -> float:
        """Bytes per second of the best of so many."""
        times = []
        for _ in range(passes):
            started = self._clock()
            self._data.sum()
            times.append(self._clock() - started)
        return self._data.nbytes / min(times)


def random_tokens(seed: int, rows: int, columns: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (rows, columns), generator=generator)
    found: list[list[int]] = ids.tolist()
    return found


def prompts(batch: int, vocabulary: int) -> list[list[int]]:
    return random_tokens(batch, batch, PROMPT, vocabulary)
