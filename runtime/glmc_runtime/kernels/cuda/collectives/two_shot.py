"""Two-shot over the memory of peers: each rank adds its share of all messages, then reads the
others'.

A share is a run of whole tiles, and a program deals with the same tiles of every share on every
rank, so that only programs of one number wait for each other, twice. A rank's sum takes the place
of its own message in its share: nobody else reads that before the sum.
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
def two_shot_kernel(
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
    program, step, tiles = tl.program_id(0), tl.num_programs(0), tl.cdiv(size, BLOCK)
    share = tl.cdiv(tiles, RANKS)
    epoch = tl.load(state) + 1
    slot = slot_of(own, x, epoch, START, CAPACITY)
    for peer in tl.static_range(RANKS):
        end = tl.minimum((peer + 1) * share, tiles)
        put(x, slot, size, peer * share + program, step, end, BLOCK)
    barrier(peers, own, rank, epoch, 0, PROGRAMS, RANKS, WIDE)
    end = tl.minimum((rank + 1) * share, tiles)
    for tile in range(rank * share + program, end, step):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        total = total_of(peers, x, epoch, place, START, CAPACITY, RANKS)
        tl.store(slot + place, total.to(x.dtype.element_ty))
    barrier(peers, own, rank, epoch, 1, PROGRAMS, RANKS, WIDE)
    for peer in tl.static_range(RANKS):
        theirs = slot_of(peers[peer], x, epoch, START, CAPACITY)
        end = tl.minimum((peer + 1) * share, tiles)
        for tile in range(peer * share + program, end, step):
            place = tile * BLOCK + tl.arange(0, BLOCK)
            tl.store(x + place, tl.load(theirs + place), mask=place < size)
    count_use(state, epoch)


def two_shot(memory: PeerMemory, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""
    return launches(memory, two_shot_kernel, x, shares=memory.size)
