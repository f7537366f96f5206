"""The butterfly's tree of sums, over messages that are all at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from glmc_runtime.collectives.folding import core_size
from glmc_runtime.collectives.wire import Thunk


def tree_sum(
    parts: Sequence[Tensor], out: Tensor, room: Callable[[int, Tensor], Tensor] | None = None
) -> list[Thunk]:
    """Steps that write the sum of ``parts``, one of each rank, to ``out``, which may be none of
    them; each sum of two is rounded to the dtype, as where messages are exchanged.

    ``room`` gives work memory like a tensor, another for each level of the tree; it may give the
    same to others, since nothing is kept there from call to call.
    """
    if len(parts) == 1:
        return [partial(out.copy_, parts[0])]
    count = core_size(len(parts))
    steps: list[Thunk] = []

    def total(first: int, ranks: int, target: Tensor, level: int) -> Tensor:
        """The sum of ``ranks`` parts from ``first`` on: in ``target``, or the one part itself."""
        if ranks == 1:
            surplus = first + count
            if surplus >= len(parts):
                return parts[first]
            steps.append(partial(torch.add, parts[first], parts[surplus], out=target))
            return target
        half = ranks // 2
        left = total(first, half, target, level + 1)
        alone = half == 1 and first + 1 + count >= len(parts)
        right = (
            parts[first + 1]
            if alone
            else total(
                first + half,
                half,
                torch.empty_like(out) if room is None else room(level, out),
                level + 1,
            )
        )
        steps.append(partial(torch.add, left, right, out=target))
        return target

    total(0, count, out, 0)
    return steps
