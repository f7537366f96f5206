"""Reduce-scatter by halving, all-gather by doubling, over the butterfly's pairs in its order.

In step k the two ranks of a pair share out the range that both still hold, each sending the half
that the other keeps. An element is added along the same tree as in the butterfly, whichever rank
keeps it, so the bits are the same for messages of every size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glmc_runtime.collectives.folding import core_size, folded
from glmc_runtime.collectives.wire import Thunk, Wire, add_in_rank_order


def halving_doubling(wire: Wire, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""

    def core() -> list[Thunk]:
        arrived = torch.empty((x.numel() + 1) // 2, dtype=x.dtype, device=x.device)
        halving: list[Thunk] = []
        doubling: list[Thunk] = []
        start, end, distance = 0, x.numel(), 1
        while distance < core_size(wire.size):
            partner, middle = wire.rank ^ distance, (start + end) // 2
            own_first = wire.rank < partner
            kept = x[start:middle] if own_first else x[middle:end]
            given = x[middle:end] if own_first else x[start:middle]
            room = arrived[: kept.numel()]
            halving += [
                wire.exchange([(given, partner)], [(room, partner)]),
                add_in_rank_order(kept, room, own_first, kept),
            ]
            doubling.append(wire.exchange([(kept, partner)], [(given, partner)]))
            start, end = (start, middle) if own_first else (middle, end)
            distance *= 2
        return [*halving, *reversed(doubling)]

    return folded(wire, x, core)
