"""Tiles of a flat message, by which one-shot and two-shot copy, add and launch.

The message may be of any size and begin anywhere: slots hold whole tiles, and only the rank's own
message is read and written under a mask.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.collectives.barrier import slot_of
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory, require_slots
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled

TILE = 4096
"""Bytes of a tile: 16 for each thread."""
_WARPS = 8


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
    """float32 sum, in the order of the ranks, of what is at ``place`` in all slots of a use."""
    total = tl.load(slot_of(peers[0], like, epoch, START, CAPACITY) + place).to(tl.float32)
    for peer in tl.static_range(1, RANKS):
        slot = slot_of(peers[peer], like, epoch, START, CAPACITY)
        total += tl.load(slot + place).to(tl.float32)
    return total


def launches(memory: PeerMemory, kernel: Any, x: Tensor, shares: int = 1) -> list[Thunk]:
    """Launches of ``kernel`` over a flat, contiguous ``x``, one for each piece that a slot takes: a
    program for each tile of one of ``shares``, as far as the memory has programs."""
    require_slots(memory.capacity, TILE)
    return [_launch_over(memory, kernel, piece, shares) for piece in memory.pieces(x)]


def _launch_over(memory: PeerMemory, kernel: Any, x: Tensor, shares: int) -> Thunk:
    block = TILE // x.element_size()
    tiles = triton.cdiv(triton.cdiv(x.numel(), block), shares)
    return partial(
        launch,
        kernel,
        (min(tiles, memory.programs),),
        x,
        *memory.arguments(),
        x.numel(),
        **memory.constants(),
        BLOCK=block,
        num_warps=_WARPS,
        pdl=pdl_enabled(x.device),
    )
