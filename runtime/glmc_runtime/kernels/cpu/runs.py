"""Slots of cached tokens: the maximal runs of consecutive slots of each sequence.

The allocator prefers blocks that follow each other, so most sequences are one run, and one run of
the layout [blocks, block_size, kv_heads, head_dim] is one strided matrix per head.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch

Run = tuple[int, int]
"""First slot and number of slots."""


def find_runs(
    blocks: list[int], length: int, block_size: int, follow: bool = True
) -> tuple[Run, ...]:
    """The runs that hold the first ``length`` tokens of a sequence with these blocks. ``follow``
    says that blocks follow each other in memory; else each is a run of its own. Raises IndexError
    for a negative block, which torch would count from the end."""
    runs: list[Run] = []
    for position in range(0, length, block_size):
        block = blocks[position // block_size]
        if block < 0:
            raise IndexError(f"block {block} of a sequence is negative: blocks count from 0")
        start = block * block_size
        count = min(block_size, length - position)
        if follow and runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((start, count))
    return tuple(runs)


class ContextRuns:
    """The runs of all sequences of a step, found again only when tables or lengths change."""

    def __init__(
        self, tables: torch.Tensor, lengths: torch.Tensor, block_size: int, follow: bool = True
    ) -> None:
        self.tables = tables
        self.lengths = lengths
        self.block_size = block_size
        self.follow = follow
        self._seen_tables = torch.full_like(tables, -1)
        self._seen_lengths = torch.full_like(lengths, -1)
        self._rows: list[list[int]] = []
        self._runs: list[tuple[Run, ...]] = []

    def current(self) -> list[tuple[Run, ...]]:
        """One tuple of runs per sequence."""
        same_tables = torch.equal(self.tables, self._seen_tables)
        if same_tables and torch.equal(self.lengths, self._seen_lengths):
            return self._runs
        if not same_tables:
            self._seen_tables.copy_(self.tables)
            self._rows = self.tables.tolist()
        self._seen_lengths.copy_(self.lengths)
        self._runs = [
            find_runs(row, length, self.block_size, self.follow)
            for row, length in zip(self._rows, self.lengths.tolist(), strict=True)
        ]
        return self._runs


_Key = tuple[int, int, torch.Size, int, bool]
_SHARED: WeakValueDictionary[_Key, ContextRuns] = WeakValueDictionary()


def shared_runs(
    tables: torch.Tensor, lengths: torch.Tensor, block_size: int, follow: bool = True
) -> ContextRuns:
    """One :class:`ContextRuns` for all layers that read the same tables and lengths."""
    key = (tables.data_ptr(), lengths.data_ptr(), tables.shape, block_size, follow)
    runs = _SHARED.get(key)
    if runs is None:
        runs = _SHARED[key] = ContextRuns(tables, lengths, block_size, follow)
    return runs
