"""What takes the values of a recorded run, step by step, as its phases hand them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from glmc_runtime.record.plan_values import RecordedValue


class Receiver(Protocol):
    """Of a tensor nothing is kept but what is taken: its memory may be used again at once."""

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        """What follows is of this step, which computes ``lengths`` tokens of the sequences."""
        ...

    def run(self, phase: str, replays: int) -> None:
        """Values of ``phase`` follow, of so many replays one after the other; other values of the
        step may come in another run of it."""
        ...

    def take(self, each: RecordedValue, rows: Tensor) -> None:
        """The real rows of a value in the replay that is under way."""
        ...

    def replayed(self, tokens: int, sequences: int) -> None:
        """A replay has ended that computed so many tokens, and logits of so many sequences."""
        ...

    def describe(self, facts: Mapping[str, Any]) -> None:
        """The run has ended; facts of all of it."""
        ...
