"""The ring: each rank sends a chunk to its neighbour, first sums in the making, then whole ones.

Chunk c is added from rank c+1 around to rank c. An element's order of sums follows its chunk, and
so its place in the message.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glmc_runtime.collectives.wire import Thunk, Wire, add_in_rank_order


def ring(wire: Wire, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place, for any number of ranks."""
    size, rank, count = wire.size, wire.rank, x.numel()
    bounds = [count * place // size for place in range(size + 1)]
    chunks = [x[bounds[place] : bounds[place + 1]] for place in range(size)]
    arrived = torch.empty(-(-count // size), dtype=x.dtype, device=x.device)
    after, before = (rank + 1) % size, (rank - 1) % size
    steps: list[Thunk] = []
    for step in range(size - 1):
        sent, kept = chunks[(rank - 1 - step) % size], chunks[(rank - 2 - step) % size]
        room = arrived[: kept.numel()]
        steps += [
            wire.exchange([(sent, after)], [(room, before)]),
            add_in_rank_order(kept, room, False, kept),
        ]
    for step in range(size - 1):
        sent, kept = chunks[(rank - step) % size], chunks[(rank - 1 - step) % size]
        steps.append(wire.exchange([(sent, after)], [(kept, before)]))
    return steps
