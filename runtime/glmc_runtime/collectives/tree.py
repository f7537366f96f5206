"""The butterfly's tree of sums, over messages that are all at hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from glmc_runtime.collectives.folding import core_size
from glmc_runtime.collectives.wire import Thunk


def tree_sum(parts: Sequence[Tensor], out: Tensor) -> list[Thunk]:
    """Steps that write the sum of ``parts``, one of each rank, to ``out``, which may be none of
    them; each sum of two is rounded to the dtype, as where messages are exchanged."""
    if len(parts) == 1:
        return [partial(out.copy_, parts[0])]
    count = core_size(len(parts))
    steps: list[Thunk] = []

    def total(first: int, ranks: int, room: Tensor) -> Tensor:
        """The sum of ``ranks`` parts from ``first`` on: in ``room``, or the one part itself."""
        if ranks == 1:
            surplus = first + count
            if surplus >= len(parts):
                return parts[first]
            steps.append(partial(torch.add, parts[first], parts[surplus], out=room))
            return room
        half = ranks // 2
        left = total(first, half, room)
        leaf = half == 1 and first + 1 + count >= len(parts)
        right = total(first + half, half, room if leaf else torch.empty_like(out))
        steps.append(partial(torch.add, left, right, out=room))
        return room

    total(0, count, out)
    return steps
