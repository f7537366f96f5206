"""The bounds of a packed step on the host, read once for all layers.

Sequences with one new token are apart from the others in a mixed step: they go to the kernel of a
decode step, which cuts a long context into splits and reads it once for all query heads of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch


class SequenceBounds(NamedTuple):
    """Prefix sums of the tokens of each sequence: of its queries, and of its context."""

    queries: list[int]
    contexts: list[int]

    @property
    def active(self) -> list[int]:
        """The sequences with queries."""
        return [index for index in range(len(self.queries) - 1) if self.length(index)]

    @property
    def longest(self) -> tuple[int, int]:
        """The most queries and the most context of one sequence."""
        sequences = range(len(self.queries) - 1)
        return max(map(self.length, sequences)), max(map(self.context, sequences))

    def length(self, index: int) -> int:
        return self.queries[index + 1] - self.queries[index]

    def context(self, index: int) -> int:
        return self.contexts[index + 1] - self.contexts[index]


@dataclass(frozen=True)
class PackedStep:
    """``singles`` is the number of sequences with one query, ``others`` that of those with more.

    ``bounds`` are those of the call that computes the others; there a single one has a context of
    one token, so that it costs nothing. ``cu_seqlens_k`` has the same contexts on the device; None
    where no sequence is single, and the contexts are those of the step.
    """

    singles: int
    others: int
    bounds: SequenceBounds
    longest: tuple[int, int]
    cu_seqlens_k: torch.Tensor | None

    @classmethod
    def of(cls, queries: list[int], contexts: list[int], device: torch.device) -> PackedStep:
        bounds = SequenceBounds(queries, contexts)
        lengths = [end - begin for begin, end in pairwise(queries)]
        singles = lengths.count(1)
        others = len(lengths) - singles - lengths.count(0)
        if not singles:
            return cls(0, others, bounds, bounds.longest, None)
        ends = [0]
        for index, length in enumerate(lengths):
            ends.append(ends[-1] + (bounds.context(index) if length > 1 else length))
        bounds = SequenceBounds(queries, ends)
        return cls(singles, others, bounds, bounds.longest, _on(ends, device))


_last: dict[torch.device, tuple[list[int], list[int], PackedStep]] = {}
"""The step that was read last: all layers ask for the same one."""


def packed_step(queries: torch.Tensor, contexts: torch.Tensor, device: torch.device) -> PackedStep:
    """The step of prefix sums that are in host memory, int32 [sequences + 1] each."""
    read = queries.tolist(), contexts.tolist()
    last = _last.get(device)
    if last is None or last[:2] != read:
        last = _last[device] = (*read, PackedStep.of(*read, device))
    return last[2]


def _on(numbers: list[int], device: torch.device) -> torch.Tensor:
    """int32 numbers on the device, for which nothing waits."""
    on_host = torch.tensor(numbers, dtype=torch.int32)
    if device.type == "cpu":
        return on_host
    return on_host.pin_memory().to(device, non_blocking=True)
