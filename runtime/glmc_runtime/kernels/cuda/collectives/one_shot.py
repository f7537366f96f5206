"""One-shot over the memory of peers: each rank puts its message down and adds those of all ranks.

A program deals with the same tiles on every rank, so that only programs of one number wait for
each other. The message may be of any size and begin anywhere: slots hold whole tiles, and only the
rank's own message is read and written under a mask.
"""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.collectives.barrier import barrier, count_use, slot_of
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory, require_slots
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled

TILE = 4096
"""Bytes of a tile: 16 for each thread."""
WARPS = 8


@triton.jit
def put(x, slot, size, first, step, tiles, BLOCK: tl.constexpr):
    """Copy tiles ``first``, ``first + step``... of ``x`` to the slot."""
    for tile in range(first, tiles, step):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        tl.store(slot + place, tl.load(x + place, mask=place < size, other=0.0))


@triton.jit
def total_of(
    peers,
    like,
    epoch,
    place,
    START: tl.constexpr,
    CAPACITY: tl.constexpr,
    RANKS: tl.constexpr,
):
    """float32 sum, in the order of the ranks, of what lies at ``place`` in all slots of a use."""
    total = tl.load(slot_of(peers[0], like, epoch, START, CAPACITY) + place).to(tl.float32)
    for peer in tl.static_range(1, RANKS):
        slot = slot_of(peers[peer], like, epoch, START, CAPACITY)
        total += tl.load(slot + place).to(tl.float32)
    return total


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
    require_slots(memory.capacity, TILE)
    return [_piece(memory, piece) for piece in memory.pieces(x)]


def _piece(memory: PeerMemory, x: Tensor) -> Thunk:
    block = TILE // x.element_size()
    return partial(
        launch,
        one_shot_kernel,
        (min(triton.cdiv(x.numel(), block), memory.programs),),
        x,
        *memory.arguments(),
        x.numel(),
        **memory.constants(),
        BLOCK=block,
        num_warps=WARPS,
        pdl=pdl_enabled(x.device),
    )
