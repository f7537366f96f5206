"""Ranks beyond a power of two: they hand in their message first and get the result at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glmc_runtime.collectives.wire import Thunk, Wire, add_in_rank_order


def core_size(size: int) -> int:
    """The largest power of two of ranks."""
    return 1 << (size.bit_length() - 1)


def folded(wire: Wire, x: Tensor, core: Callable[[], list[Thunk]]) -> list[Thunk]:
    """The steps of an all-reduce whose ``core`` is written for a power of two of ranks.

    Rank ``core + i`` adds its message to that of rank ``i`` before and takes the sum after.
    """
    count, rank = core_size(wire.size), wire.rank
    if rank >= count:
        partner = rank - count
        return [wire.exchange([(x, partner)], []), wire.exchange([], [(x, partner)])]
    surplus = rank + count
    if surplus >= wire.size:
        return core()
    arrived = torch.empty_like(x)
    return [
        wire.exchange([], [(arrived, surplus)]),
        add_in_rank_order(x, arrived, True, x),
        *core(),
        wire.exchange([(x, surplus)], []),
    ]
