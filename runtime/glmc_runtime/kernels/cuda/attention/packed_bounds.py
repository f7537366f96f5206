"""The bounds of a packed step on the host, read once for all layers.

Sequences with one new token are apart from the others in a mixed step: they go to the kernel of a
decode step, which cuts a long context into splits and reads it once for all query heads of a group.
The kernels of the others take bounds in which sequences without queries are left out, and queries
of single ones, which lie between the others' in the packed query, are one sequence that has no
context: its rows cost next to nothing and are written by the other kernel. So are rows of padding
behind the last sequence, which come out as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch


class SequenceBounds(NamedTuple):
    """Prefix sums of the tokens of each sequence: of its queries, and of its context."""

    queries: list[int]
    contexts: list[int]

    @property
    def sequences(self) -> int:
        return len(self.queries) - 1

    @property
    def longest(self) -> tuple[int, int]:
        """The most queries and the most context of one sequence."""
        sequences = range(self.sequences)
        lengths, contexts = map(self.length, sequences), map(self.context, sequences)
        return max(lengths, default=0), max(contexts, default=0)

    def length(self, index: int) -> int:
        return self.queries[index + 1] - self.queries[index]

    def context(self, index: int) -> int:
        return self.contexts[index + 1] - self.contexts[index]


class WholeStep(NamedTuple):
    """``lengths`` int32 [sequences] are the contexts on the device, ``longest`` the most queries
    and the most context of one sequence."""

    sequences: int
    lengths: torch.Tensor
    longest: tuple[int, int]


class PackedStep(NamedTuple):
    """``singles`` is the number of sequences with one query, ``others`` that of those with more,
    ``tokens`` that of all their queries. ``alone`` says that there is one other, without a prefix.
    ``in_place`` is the whole step for a library that takes it as it is, where no sequence without
    queries lies between others.

    ``bounds`` are those of the call that computes the others, and ``longest`` theirs. On the device
    ``cu_seqlens_q`` and ``cu_seqlens_k`` are the same, int32 [sequences + 1], and ``rows`` int32
    [sequences] are the rows of ``block_tables`` that their sequences have.
    """

    singles: int
    others: int
    tokens: int
    alone: bool
    bounds: SequenceBounds
    longest: tuple[int, int]
    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    rows: torch.Tensor
    in_place: WholeStep | None

    @classmethod
    def of(
        cls, queries: list[int], contexts: list[int], rows_of_query: int, device: torch.device
    ) -> PackedStep:
        singles = others = 0
        bounds, rows = SequenceBounds([0], [0]), []
        between = False  # whether the last of ``bounds`` stands for single ones
        for index, ((begin, end), (first, last)) in enumerate(
            zip(pairwise(queries), pairwise(contexts), strict=True)
        ):
            if begin == end:
                continue
            single = end - begin == 1
            singles, others = singles + single, others + (not single)
            if single and between:
                bounds.queries[-1] = end
                continue
            between = single
            bounds.queries.append(end)
            bounds.contexts.append(bounds.contexts[-1] + (0 if single else last - first))
            rows.append(index)
        alone = len(rows) == others == 1 and bounds.queries == bounds.contexts
        tokens = queries[-1]
        if others and tokens < rows_of_query and between:
            bounds.queries[-1] = rows_of_query
        elif others and tokens < rows_of_query:
            bounds.queries.append(rows_of_query)
            bounds.contexts.append(bounds.contexts[-1])
            rows.append(0)
        whole, sequences = SequenceBounds(queries, contexts), singles + others
        lengths = [whole.context(index) for index in range(sequences)]
        cu_seqlens_q, cu_seqlens_k, on_device, lengths_there = _on([*bounds, rows, lengths], device)
        in_place = None
        if queries[sequences] == tokens:
            longest = max(map(whole.length, range(sequences)), default=0)
            in_place = WholeStep(sequences, lengths_there, (longest, max(lengths, default=0)))
        return cls(
            singles,
            others,
            tokens,
            alone,
            bounds,
            bounds.longest,
            cu_seqlens_q,
            cu_seqlens_k,
            on_device,
            in_place,
        )


_Read = tuple[list[int], list[int], int, torch.device]
_last: WeakKeyDictionary[object, tuple[_Read, PackedStep]] = WeakKeyDictionary()
"""The step that was read last for each owner, whose calls run in the order of one stream: all
layers ask for the same one."""


def packed_step(
    queries: torch.Tensor,
    contexts: torch.Tensor,
    rows_of_query: int,
    device: torch.device,
    owner: object,
) -> PackedStep:
    """The step of prefix sums that are in host memory, int32 [sequences + 1] each, for calls of
    ``owner`` (:mod:`glmc_runtime.kernels.owner`)."""
    read = queries.tolist(), contexts.tolist(), rows_of_query, device
    last = _last.get(owner)
    if last is None or last[0] != read:
        last = _last[owner] = (read, PackedStep.of(*read))
    return last[1]


def _on(lists: Iterable[list[int]], device: torch.device) -> Iterator[torch.Tensor]:
    """int32 numbers on the device, for which nothing waits. Each list begins at 16 bytes: for
    another alignment Triton would compile anew."""
    numbers: list[int] = []
    places = []
    for each in lists:
        places.append((len(numbers), len(each)))
        numbers += [*each, *[0] * (-len(each) % 4)]
    there = torch.tensor(numbers, dtype=torch.int32, device="cpu")
    if device.type != "cpu":
        there = there.pin_memory().to(device, non_blocking=True)
    return (there[place : place + size] for place, size in places)
