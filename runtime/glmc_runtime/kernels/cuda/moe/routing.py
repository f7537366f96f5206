"""The pairs of many tokens in the order of their experts, and the tiles of rows that this makes.

Two launches with one program per expert, each reading all ids: the first counts, the second gives
every pair its row (stable: pairs of an expert keep their order) and writes the tiles. Nothing is
read on the host; how many tiles there can be is known beforehand, how many there are is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda.launch import launch
from glmc_runtime.kernels.cuda.moe.common import Experts

_SCAN = 2048


@triton.jit(do_not_specialize=["tokens", "pairs", "experts"])
def count_kernel(ids, counts, tokens, pairs, experts, SCAN: tl.constexpr, PDL: tl.constexpr):
    """counts [experts + 1]: the pairs of each expert; the last, the shared one, has all tokens."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    expert = tl.program_id(0)
    total = tl.zeros([SCAN], tl.int32)
    if expert < experts:
        for start in range(0, pairs, SCAN):
            place = start + tl.arange(0, SCAN)
            expert_ids = tl.load(ids + place, mask=place < pairs, other=-1)
            total += (expert_ids == expert).to(tl.int32)
    count = tl.sum(total, 0)
    tl.store(counts + expert, tl.where(expert < experts, count, tokens))


@triton.jit(do_not_specialize=["pairs", "experts"])
def place_kernel(
    ids,
    counts,
    order,
    ends,
    tiles,
    tile_count,
    pairs,
    experts,
    EXPERTS: tl.constexpr,
    SCAN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SHARED: tl.constexpr,
    PDL: tl.constexpr,
):
    """order [pairs]: the pair of each row; ends [experts]: the row after each expert's last;
    tiles [most tiles, 3]: (expert, first row, rows); tile_count [1]. EXPERTS is a power of two."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    expert = tl.program_id(0)
    lane = tl.arange(0, EXPERTS)
    size = tl.load(counts + lane, mask=lane < experts + SHARED, other=0)
    before = lane < expert
    first = tl.sum(tl.where(before, size, 0), 0)
    tile = tl.sum(tl.where(before, (size + BLOCK_M - 1) // BLOCK_M, 0), 0)
    count = tl.load(counts + expert)
    if expert < experts:
        tl.store(ends + expert, first + count)
        seen = first
        for start in range(0, pairs, SCAN):
            place = start + tl.arange(0, SCAN)
            expert_ids = tl.load(ids + place, mask=place < pairs, other=-1)
            match = (expert_ids == expert).to(tl.int32)
            row = seen + tl.cumsum(match, 0) - 1
            tl.store(order + row, place, mask=match == 1)
            seen += tl.sum(match, 0)
    for start in range(0, count, BLOCK_M):
        at = tiles + 3 * (tile + start // BLOCK_M)
        tl.store(at, expert)
        tl.store(at + 1, first + start)
        tl.store(at + 2, tl.minimum(count - start, BLOCK_M))
    if expert == experts + SHARED - 1:
        tl.store(tile_count, tile + (count + BLOCK_M - 1) // BLOCK_M)


@dataclass(frozen=True)
class Routing:
    """int32 memory for the order of the pairs and for the tiles."""

    counts: torch.Tensor
    order: torch.Tensor
    ends: torch.Tensor
    tiles: torch.Tensor
    tile_count: torch.Tensor

    @staticmethod
    def sizes(call: Experts, block_m: int) -> list[tuple[int, torch.dtype]]:
        """Sizes of the fields in the workspace, in their order."""
        counts = (call.experts + 1, call.pairs, call.experts, 3 * most_tiles(call, block_m), 1)
        return [(count, torch.int32) for count in counts]


def most_tiles(call: Experts, block_m: int) -> int:
    """How many tiles there are at worst: every expert that has pairs may have a broken one."""
    broken = min(call.experts, call.pairs)
    shared = triton.cdiv(call.tokens, block_m) * call.shared
    return int((call.pairs - broken) // block_m + broken + shared)


def bind_routing(call: Experts, routing: Routing, block_m: int) -> Thunk:
    """The two launches."""
    grid = (call.experts + call.shared,)
    scan = min(_SCAN, max(power_of_two(call.pairs), 2))
    r = routing
    count = (call.ids, r.counts, call.tokens, call.pairs, call.experts)
    read = (call.ids, r.counts)
    place = (*read, r.order, r.ends, r.tiles, r.tile_count, call.pairs, call.experts)
    meta: dict[str, Any] = {"SCAN": scan, "pdl": call.pdl, "num_warps": 8}
    place_meta = {
        **meta,
        "EXPERTS": max(power_of_two(call.experts + 1), 2),
        "BLOCK_M": block_m,
        "SHARED": call.shared,
    }

    def run() -> None:
        launch(count_kernel, grid, *count, **meta)
        launch(place_kernel, grid, *place, **place_meta)

    return run
