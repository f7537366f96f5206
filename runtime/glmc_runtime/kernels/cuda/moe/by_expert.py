"""The experts of some tokens, expert by expert: each chosen expert's weights are read once.

A program holds a block of one expert's rows as the left operand of the product and the few tokens
that chose the expert as the right one. Which these are it finds in the ids itself: as many programs
as pairs, of which all but the first with the same expert leave at once, or one per expert where
there are more pairs than experts. The second launch sums over the experts of a token: the program
that arrives last at a block of columns adds the others' results in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.launch import interpreted, launch
from glmc_runtime.kernels.cuda.linear.tiles import dot, prefetch
from glmc_runtime.kernels.cuda.moe.common import (
    Configuration,
    Experts,
    bind_combine,
    blocks_meta,
    sum_of_pairs,
    varied,
    workspace_views,
)


@triton.jit(do_not_specialize=["tokens", "pairs", "slots"])
def experts_up_kernel(
    x,
    ids,
    gate_up,
    shared_gate_up,
    activated,
    order,
    ranges,
    tokens,
    pairs,
    slots,
    PAIRS: tl.constexpr,
    BY_PAIR: tl.constexpr,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS_FIRST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """activated [pairs + tokens, WIDEST] in the order of the experts; order [pairs]: the pair of
    each such row; ranges [slots, 2]: the rows of each slot, (count, first).

    PAIRS is a power of two of at least ``pairs``. Grid: blocks of gate rows times slots (and one
    more slot, the last, for the shared expert), the blocks innermost with COLUMNS_FIRST.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if COLUMNS_FIRST:
        block = tl.program_id(0) % BLOCKS
        slot = tl.program_id(0) // BLOCKS
    else:
        block = tl.program_id(0) // (slots + SHARED)
        slot = tl.program_id(0) % (slots + SHARED)
    is_shared = slot >= slots  # never without SHARED
    place = tl.arange(0, PAIRS)
    expert_ids = tl.load(ids + place, mask=place < pairs, other=1 << 30).to(tl.int32)
    expert = tl.load(ids + tl.minimum(slot, pairs - 1)).to(tl.int32) if BY_PAIR else slot
    match = expert_ids == tl.where(slot < slots, expert, -1)
    count = tl.sum(match.to(tl.int32), 0)
    first = tl.sum((expert_ids < expert).to(tl.int32), 0)
    if BY_PAIR:
        earlier = tl.sum((match & (place < slot)).to(tl.int32), 0)
        count = tl.where(earlier > 0, 0, count)
        if LOCAL:
            count = tl.where(expert < LOCAL, count, 0)
    # All programs of an expert write the same, so that each can read it back at once.
    rank = tl.cumsum(match.to(tl.int32), 0) - 1
    tl.store(order + first + rank, place, mask=match & (rank < count))
    tl.debug_barrier()
    if block == 0:  # noqa: SIM102
        if slot < slots:
            tl.store(ranges + 2 * slot, count)
            tl.store(ranges + 2 * slot + 1, first)
    width = tl.where(is_shared, WS, W) if SHARED and WS != W else W
    base = gate_up + expert.to(tl.int64) * (2 * W * H)
    if SHARED:  # noqa: SIM102
        if slot == slots:
            base = shared_gate_up
            count = tokens
            first = pairs
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end read the last one again; they are never stored.
    even: tl.constexpr = W % BLOCK_N == 0 and WS == W
    line = n if even else tl.minimum(n, width - 1)
    column = tl.arange(0, BLOCK_K)
    gate_at = base + line[:, None] * H + column[None, :]
    up_at = gate_at + width * H
    for group in range(0, count, BLOCK_M):
        row = group + tl.arange(0, BLOCK_M)
        real = row < count
        if SHARED:
            pair = tl.load(order + first + row, mask=row < tl.where(is_shared, 0, count), other=0)
            token = tl.where(is_shared, row, pair // TOP_K)
        else:
            token = tl.load(order + first + row, mask=real, other=0) // TOP_K
        x_at = x + token[:, None] * H + column[None, :]
        gate = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for k in tl.range(0, H, BLOCK_K, num_stages=STAGES):
            if H % BLOCK_K == 0:
                gates = tl.load(gate_at + k, eviction_policy="evict_first")
                ups = tl.load(up_at + k, eviction_policy="evict_first")
                values = tl.load(x_at + k, mask=real[:, None], other=0.0)
            else:
                keep = column < H - k
                gates = tl.load(
                    gate_at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first"
                )
                ups = tl.load(
                    up_at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first"
                )
                values = tl.load(x_at + k, mask=real[:, None] & keep[None, :], other=0.0)
            gate = dot(gates, tl.trans(values), gate, WIDEN)
            up = dot(ups, tl.trans(values), up, WIDEN)
        result = gated(gate, up, x.dtype.element_ty)
        at = activated + (first + row)[None, :] * WIDEST + n[:, None]
        tl.store(at, result, mask=real[None, :] & (n < width)[:, None])


@triton.jit(do_not_specialize=["tokens", "pairs", "slots"])
def experts_down_kernel(
    activated,
    order,
    ranges,
    weights,
    ids,
    down,
    shared_down,
    results,
    out,
    counters,
    tokens,
    pairs,
    slots,
    BY_PAIR: tl.constexpr,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS_FIRST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    STAGES: tl.constexpr,
    WIDEN: tl.constexpr,
    LAST_REDUCES: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):
    """results [pairs + tokens, H] in the order of the pairs; with LAST_REDUCES also out, summed by
    the last to arrive: ``counters`` [BLOCKS] counts the rows that are there.

    Grid: column blocks times slots, as in the first launch.
    """
    if COLUMNS_FIRST:
        block = tl.program_id(0) % BLOCKS
        slot = tl.program_id(0) // BLOCKS
    else:
        block = tl.program_id(0) // (slots + SHARED)
        slot = tl.program_id(0) % (slots + SHARED)
    is_shared = slot >= slots  # never without SHARED
    if BY_PAIR:
        # The router's ids are there: the launch before this one has waited for them.
        if PDL and not PREFETCH:
            tl.extra.cuda.gdc_wait()
        expert = tl.load(ids + tl.minimum(slot, pairs - 1))
        if LOCAL:
            expert = tl.minimum(expert, LOCAL - 1)  # what is prefetched; it has no rows
    else:
        expert = slot.to(tl.int64)
    base = down + expert * (H * W)
    width = tl.where(is_shared, WS, W) if SHARED and WS != W else W
    if SHARED:  # noqa: SIM102
        if slot == slots:
            base = shared_down
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    line = n if H % BLOCK_N == 0 else tl.minimum(n, H - 1)
    column = tl.arange(0, BLOCK_K)
    weight_at = base + line[:, None] * width + column[None, :]
    if PDL:
        if PREFETCH:
            spot = tl.arange(0, 4) * 64
            prefetch(base + line[:, None] * width + tl.minimum(spot, width - 1)[None, :])
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if SHARED:
        if slot == slots:
            count = tokens
            first = pairs
        else:
            count = tl.load(ranges + 2 * slot, cache_modifier=".cg")
            first = tl.load(ranges + 2 * slot + 1, cache_modifier=".cg")
    else:
        count = tl.load(ranges + 2 * slot, cache_modifier=".cg")
        first = tl.load(ranges + 2 * slot + 1, cache_modifier=".cg")
    for group in range(0, count, BLOCK_M):
        row = group + tl.arange(0, BLOCK_M)
        real = row < count
        if SHARED:
            listed = row < tl.where(is_shared, 0, count)
            pair = tl.load(order + first + row, mask=listed, other=0, cache_modifier=".cg")
            pair = tl.where(is_shared, pairs + row, pair)
        else:
            pair = tl.load(order + first + row, mask=real, other=0, cache_modifier=".cg")
        x_at = activated + (first + row)[:, None] * WIDEST + column[None, :]
        total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for k in tl.range(0, width, BLOCK_K, num_stages=STAGES):
            if W % BLOCK_K == 0 and WS % BLOCK_K == 0:
                weight = tl.load(weight_at + k, eviction_policy="evict_first")
                values = tl.load(x_at + k, mask=real[:, None], other=0.0)
            else:
                keep = column < width - k
                weight = tl.load(
                    weight_at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first"
                )
                values = tl.load(x_at + k, mask=real[:, None] & keep[None, :], other=0.0)
            total = dot(weight, tl.trans(values), total, WIDEN)
        at = results + pair[None, :] * H + n[:, None]
        mask = real[None, :] & (n < H)[:, None]
        tl.store(at, total.to(results.dtype.element_ty), mask=mask)
    if LAST_REDUCES:  # noqa: SIM102
        if count > 0:
            tl.debug_barrier()
            before = tl.atomic_add(counters + block, count, sem="acq_rel")
            tl.debug_barrier()
            if before + count == pairs + tokens * SHARED:
                tl.store(counters + block, 0)
                for start in range(0, tokens, BLOCK_T):
                    token = start + tl.arange(0, BLOCK_T)
                    sum_of_pairs(
                        results, weights, ids, out, token, n, tokens, pairs, TOP_K, H, SHARED, LOCAL
                    )


def default(call: Experts) -> Configuration:
    """60 KB of shared memory a program: three of them load side by side on a multiprocessor."""
    wide = 2 if call.x.element_size() == 2 else 1
    return {
        "variant": "by_expert",
        "rows": 16,
        "up_n": 32,
        "up_k": 64 * wide,
        "up_stages": 4,
        "up_warps": 4,
        "up_registers": 0,
        "up_columns_first": False,
        "down_n": 64,
        "down_k": 32 * wide,
        "down_stages": 6,
        "down_warps": 4,
        "down_registers": 0,
        "down_columns_first": False,
        "last_reduces": True,
        "prefetch": False,
    }


def candidates(call: Experts) -> Iterator[Configuration]:
    """One launch varied while the other keeps its default; what is best of each goes together."""
    base = default(call)
    wide = 128 if call.x.element_size() == 2 else 64
    yield base
    yield from varied(
        base,
        "up_n up_k up_stages up_warps up_registers",
        (32, wide, 3, 4, 96),
        (32, wide, 5, 4, 0),
        (32, wide // 2, 6, 4, 0),
        (32, wide // 2, 8, 4, 0),
        (32, 2 * wide, 3, 4, 0),
        (16, wide, 4, 4, 0),
        (16, 2 * wide, 3, 4, 0),
        (64, wide // 2, 3, 4, 0),
        (64, wide // 2, 4, 4, 0),
        (64, wide // 2, 5, 4, 0),
        (64, wide, 3, 4, 0),
        (64, wide, 3, 8, 0),
    )
    yield from varied(
        base,
        "down_n down_k down_stages down_warps down_registers",
        (64, wide // 2, 6, 4, 128),
        (64, wide // 2, 8, 4, 0),
        (64, wide, 3, 4, 168),
        (64, wide, 4, 4, 0),
        (64, wide, 5, 4, 0),
        (32, wide, 5, 4, 0),
        (32, 2 * wide, 4, 4, 0),
        (128, wide // 2, 4, 4, 0),
        (128, wide, 3, 8, 0),
    )
    for change in (
        {"up_columns_first": True},
        {"down_columns_first": True},
        {"last_reduces": False},
        {"prefetch": True},
        {"rows": 32},
    ):
        yield {**base, **change}


def bind(call: Experts, configuration: Configuration) -> Thunk:
    c = configuration
    device, dtype = call.x.device, call.x.dtype
    shared_gate_up, shared_down = call.shared_weights
    slots = min(call.pairs, call.experts)
    activated, results, order, ranges = workspace_views(
        device,
        (call.rows * call.widest, dtype),
        (call.rows * call.hidden, dtype),
        (call.pairs, torch.int32),
        (2 * slots, torch.int32),
    )
    common: dict[str, Any] = {
        "TOP_K": call.top_k,
        "H": call.hidden,
        "SHARED": call.shared,
        "LOCAL": call.local,
        "WIDEN": interpreted(),
        "pdl": call.pdl,
        "BY_PAIR": call.pairs <= call.experts,
        "W": call.width,
        "WS": call.shared_width,
        "WIDEST": call.widest,
        "BLOCK_M": c["rows"],
    }
    counts = (call.tokens, call.pairs, slots)
    up = (call.x, call.ids, call.gate_up, shared_gate_up, activated, order, ranges, *counts)
    up_meta = {
        **common,
        "PAIRS": max(power_of_two(call.pairs), 2),
        "COLUMNS_FIRST": c["up_columns_first"],
        **blocks_meta(c, "up", call.widest),
    }
    read = (activated, order, ranges, call.weights, call.ids, call.down, shared_down)
    # How many rows will arrive is known only where each pair has one.
    last_reduces = c["last_reduces"] and not call.is_local
    down_meta = {
        **common,
        "COLUMNS_FIRST": c["down_columns_first"],
        "BLOCK_T": min(power_of_two(call.tokens), 16),
        "LAST_REDUCES": last_reduces,
        "PREFETCH": c["prefetch"],
        **blocks_meta(c, "down", call.hidden),
    }
    counters = workspace.arrival_counters(device, down_meta["BLOCKS"])
    down = (*read, results, call.out, counters, *counts)
    up_grid, down_grid = (
        (meta["BLOCKS"] * (slots + call.shared),) for meta in (up_meta, down_meta)
    )
    combine = bind_combine(call, results)

    def run() -> None:
        launch(experts_up_kernel, up_grid, *up, **up_meta)
        launch(experts_down_kernel, down_grid, *down, **down_meta)
        if not last_reduces:
            combine()

    return run
