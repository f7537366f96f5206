"""Products with one to four rows, without tensor cores.

A program streams BLOCK_N rows of the weight (or one of SPLIT_K parts of them) past x. Products are
kept as [BLOCK_N, BLOCK_K] float32 and summed up once, at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.linear.tiles import (
    is_last_program,
    prefetch_start,
    split_steps,
    weight_rows,
)

MOST_ROWS = 4


@triton.jit
def _store_row(
    total,
    bias,
    out,
    tile,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """One row of outputs from the sums [BLOCK_N] of a tile."""
    dtype = out.dtype.element_ty
    if GATED:
        column = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        gate, up = tl.split(tl.reshape(total, [BLOCK_N // 2, 2]))
        tl.store(out + column, gated(gate, up, dtype), mask=column < N)
    else:
        column = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if HAS_BIAS:
            total += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)
        tl.store(out + column, total.to(dtype), mask=column < N)


@triton.jit
def _load(pointers, inside, MASKED: tl.constexpr):
    block = tl.load(pointers, mask=inside, other=0.0) if MASKED else tl.load(pointers)
    return block.to(tl.float32)


@triton.jit
def _finish_row(
    partials,
    row,
    bias,
    out,
    tile,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """One row of outputs from the sums of all parts, in their order."""
    place = partials + row * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    for part in tl.static_range(SPLIT_K):
        total += tl.load(place + part * (ROWS * BLOCK_N), cache_modifier=".cg")
    _store_row(total, bias, out + row * N, tile, N, BLOCK_N, GATED, HAS_BIAS)


@triton.jit
def gemv_kernel(
    x,
    weight,
    bias,
    out,
    partials,
    counters,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    STAGES: tl.constexpr,
    PREFETCH: tl.constexpr,
    LINE: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    """x [ROWS, K], weight [N or 2 * N, K], out [ROWS, N]; with SPLIT_K > 1 partials float32
    [tiles, SPLIT_K, ROWS, BLOCK_N] and counters [tiles]."""
    tile, split = tl.program_id(0), tl.program_id(1)
    LENGTH: tl.constexpr = ((K + BLOCK_K * SPLIT_K - 1) // (BLOCK_K * SPLIT_K)) * BLOCK_K
    begin = split * LENGTH
    start = weight + weight_rows(tile, N, BLOCK_N, GATED) * K + begin
    if PDL:
        if PREFETCH > 0:
            prefetch_start(start, BLOCK_N, PREFETCH, LINE)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    x += begin
    steps = split_steps(split, K, BLOCK_K, SPLIT_K, LENGTH)
    lane = tl.arange(0, BLOCK_K)[None, :]
    weights = start[:, None]
    # One accumulator per row, spelled out: a list of them would not survive the loop.
    sum_0 = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    if ROWS > 1:
        sum_1 = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    if ROWS > 2:
        sum_2 = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    if ROWS > 3:
        sum_3 = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        place = step * BLOCK_K + lane
        block = tl.load(weights + place, eviction_policy="evict_first").to(tl.float32)
        sum_0 += block * _load(x + place, True, False)
        if ROWS > 1:
            sum_1 += block * _load(x + K + place, True, False)
        if ROWS > 2:
            sum_2 += block * _load(x + 2 * K + place, True, False)
        if ROWS > 3:
            sum_3 += block * _load(x + 3 * K + place, True, False)
    if K % BLOCK_K != 0:
        place = steps * BLOCK_K + lane
        inside = place < tl.minimum(LENGTH, K - begin)
        block = _load(weights + place, inside, True)
        sum_0 += block * _load(x + place, inside, True)
        if ROWS > 1:
            sum_1 += block * _load(x + K + place, inside, True)
        if ROWS > 2:
            sum_2 += block * _load(x + 2 * K + place, inside, True)
        if ROWS > 3:
            sum_3 += block * _load(x + 3 * K + place, inside, True)

    if SPLIT_K == 1:
        _store_row(tl.sum(sum_0, 1), bias, out, tile, N, BLOCK_N, GATED, HAS_BIAS)
        if ROWS > 1:
            _store_row(tl.sum(sum_1, 1), bias, out + N, tile, N, BLOCK_N, GATED, HAS_BIAS)
        if ROWS > 2:
            _store_row(tl.sum(sum_2, 1), bias, out + 2 * N, tile, N, BLOCK_N, GATED, HAS_BIAS)
        if ROWS > 3:
            _store_row(tl.sum(sum_3, 1), bias, out + 3 * N, tile, N, BLOCK_N, GATED, HAS_BIAS)
    else:
        partials += tile * (SPLIT_K * ROWS * BLOCK_N)
        mine = partials + split * (ROWS * BLOCK_N) + tl.arange(0, BLOCK_N)
        tl.store(mine, tl.sum(sum_0, 1))
        if ROWS > 1:
            tl.store(mine + BLOCK_N, tl.sum(sum_1, 1))
        if ROWS > 2:
            tl.store(mine + 2 * BLOCK_N, tl.sum(sum_2, 1))
        if ROWS > 3:
            tl.store(mine + 3 * BLOCK_N, tl.sum(sum_3, 1))
        if is_last_program(counters, tile, SPLIT_K):
            for row in tl.static_range(ROWS):
                _finish_row(
                    partials, row, bias, out, tile, N, ROWS, BLOCK_N, SPLIT_K, GATED, HAS_BIAS
                )
