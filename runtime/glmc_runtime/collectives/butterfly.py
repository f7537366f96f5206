"""Recursive doubling: in step k each rank exchanges its whole sum with the rank 2**k away.

The first step pairs neighbours, so the tree of sums is ((0+1)+(2+3))+((4+5)+(6+7)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from glmc_runtime.collectives.folding import core_size, folded
from glmc_runtime.collectives.wire import Thunk, Wire, add_in_rank_order


def butterfly(wire: Wire, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""

    def core() -> list[Thunk]:
        arrived = torch.empty_like(x)
        steps: list[Thunk] = []
        distance = 1
        while distance < core_size(wire.size):
            partner = wire.rank ^ distance
            steps += [
                wire.exchange([(x, partner)], [(arrived, partner)]),
                add_in_rank_order(x, arrived, wire.rank < partner, x),
            ]
            distance *= 2
        return steps

    return folded(wire, x, core)
