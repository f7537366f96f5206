"""One step: what it computes, and the values of its inputs.

What has a value for each token is an array, filled and copied at once: a tenth of the
time that lists of Python numbers take for a long prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, Union

import torch

from glmc_runtime.replay.cache import SCRATCH_BLOCK

Column = Union[list[int], "array[int]"]
_LONG = 128  # numbers in a row from which torch counts faster than a range does


class ScheduledTokens(NamedTuple):
    """The share of one sequence in a step: new ``tokens`` (an array has 64-bit integers), the
    first at position ``start``, and the logits after the last ``logits`` of them."""

    tokens: Sequence[int]
    start: int
    blocks: list[int]
    logits: int = 1


class Step:
    """What a step computes: chunks of sequences, padded to ``tokens`` rows.

    ``sequences`` is the padded number of sequences: the bucket in decode, the real one in prefill.
    """

    def __init__(
        self, chunks: list[ScheduledTokens], tokens: int, sequences: int, block_size: int
    ) -> None:
        self.chunks = chunks
        self.tokens = tokens
        self.sequences = sequences
        self.block_size = block_size
        self.padding = tokens - sum([len(chunk.tokens) for chunk in chunks])
        self.absent = sequences - len(chunks)
        self._columns: dict[str, Column] = {}

    def column(self, name: str) -> Column:
        """The values of a step input; computed once, though host and device both want some. What
        has a value for each token is an array of 64-bit integers, what has one for each sequence a
        list."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _COLUMNS[name](self)
        return column


def _token_ids(step: Step) -> Column:
    ids = array("q")
    for chunk in step.chunks:
        ids.extend(chunk.tokens)
    ids.extend([0] * step.padding)
    return ids


def _positions(step: Step) -> Column:
    positions = array("q")
    for chunk in step.chunks:
        _extend(positions, chunk.start, len(chunk.tokens))
    positions.extend([0] * step.padding)
    return positions


def _slot_mapping(step: Step) -> Column:
    size = step.block_size
    slots = array("q")
    for chunk in step.chunks:
        position, end = chunk.start, chunk.start + len(chunk.tokens)
        first = number = 0  # a run of slots; that of neighbouring blocks is one
        while position < end:
            slot = chunk.blocks[position // size] * size + position % size
            count = min(end - position, size - position % size)
            if slot != first + number:
                _extend(slots, first, number)
                first, number = slot, 0
            number += count
            position += count
        _extend(slots, first, number)
    # Spread over the scratch block, so that no two of its slots are fought over needlessly.
    slots.extend([SCRATCH_BLOCK * size + row % size for row in range(step.padding)])
    return slots


def _extend(column: array[int], first: int, number: int) -> None:
    """Put ``number`` numbers from ``first`` on after a column."""
    if number < _LONG:
        column.extend(range(first, first + number))
        return
    start = len(column)
    column.frombytes(bytes(number * column.itemsize))
    added = torch.frombuffer(column, dtype=torch.int64)[start:]
    torch.arange(first, first + number, out=added, device="cpu")


def _context_lengths(step: Step) -> Column:
    return [chunk.start + len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent


def _cu_seqlens_q(step: Step) -> Column:
    lengths = [len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent
    return list(accumulate(lengths, initial=0))


def _cu_seqlens_k(step: Step) -> Column:
    return list(accumulate(step.column("context_lengths"), initial=0))


def _last_rows(step: Step) -> Column:
    return [end - 1 for end in step.column("cu_seqlens_q")[1:]]


_COLUMNS: dict[str, Callable[[Step], Column]] = {
    "token_ids": _token_ids,
    "positions": _positions,
    "slot_mapping": _slot_mapping,
    "context_lengths": _context_lengths,
    "cu_seqlens_q": _cu_seqlens_q,
    "cu_seqlens_k": _cu_seqlens_k,
    "last_rows": _last_rows,
}


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold ``tokens`` tokens."""
    return -(-tokens // block_size)
