"""One-shot over the memory of peers: each rank puts its message down and adds those of all ranks.

A program deals with the same tiles on every rank, so that only programs of one number wait for
each other.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.collectives.barrier import barrier, count_use, slot_of
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory
from glmc_runtime.kernels.cuda.collectives.tiles import launches, put, total_of


@triton.jit(do_not_specialize=["rank"])
def one_shot_kernel(
    x,
    peers,
    own,
    state,
    rank,
    size,
    START: tl.constexpr,
    CAPACITY: tl.constexpr,
    PROGRAMS: tl.constexpr,
    RANKS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first, step, tiles = tl.program_id(0), tl.num_programs(0), tl.cdiv(size, BLOCK)
    epoch = tl.load(state) + 1
    put(x, slot_of(own, x, epoch, START, CAPACITY), size, first, step, tiles, BLOCK)
    barrier(peers, own, rank, epoch, 0, PROGRAMS, RANKS, WIDE)
    for tile in range(first, tiles, step):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        total = total_of(peers, x, epoch, place, START, CAPACITY, RANKS)
        tl.store(x + place, total.to(x.dtype.element_ty), mask=place < size)
    count_use(state, epoch)


def one_shot(memory: PeerMemory, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""
    return launches(memory, one_shot_kernel, x)
