"""Products with 2 to 64 rows by the tensor cores.

The tile of the weight is the left operand, because it is the long side: x, padded to ROWS columns,
is the right one and stays small beside it. float32 is multiplied exactly ("ieee").
"""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.linear.tiles import (
    dot,
    is_last_program,
    prefetch_start,
    split_steps,
    weight_rows,
)

MOST_ROWS = 64


@triton.jit
def _store_tile(
    total,
    bias,
    out,
    tile,
    rows,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """The outputs of a tile from its sums [BLOCK_N, ROWS]."""
    dtype = out.dtype.element_ty
    row = tl.arange(0, ROWS)[None, :]
    if GATED:
        column = (tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2))[:, None]
        pairs = tl.permute(tl.reshape(total, [BLOCK_N // 2, 2, ROWS]), [0, 2, 1])
        gate, up = tl.split(pairs)
        result = gated(gate, up, dtype)
    else:
        column = (tile * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
        if HAS_BIAS:
            total += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)
        result = total.to(dtype)
    tl.store(out + row * N + column, result, mask=(column < N) & (row < rows))


@triton.jit(do_not_specialize=["rows"])
def skinny_kernel(
    x,
    weight,
    bias,
    out,
    partials,
    counters,
    rows,
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
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """x [rows, K] with rows <= ROWS, weight [N or 2 * N, K], out [rows, N]; with SPLIT_K > 1
    partials float32 [tiles, SPLIT_K, BLOCK_N, ROWS] and counters [tiles]."""
    tile, split = tl.program_id(0), tl.program_id(1)
    LENGTH: tl.constexpr = ((K + BLOCK_K * SPLIT_K - 1) // (BLOCK_K * SPLIT_K)) * BLOCK_K
    begin = split * LENGTH
    start = weight + weight_rows(tile, N, BLOCK_N, GATED) * K + begin
    if PDL:
        if PREFETCH > 0:
            prefetch_start(start, BLOCK_N, PREFETCH, LINE)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    steps = split_steps(split, K, BLOCK_K, SPLIT_K, LENGTH)
    lane = tl.arange(0, BLOCK_K)
    row = tl.arange(0, ROWS)[None, :]
    present = row < rows
    weights = start[:, None] + lane[None, :]
    columns = x + begin + row * K + lane[:, None]
    total = tl.zeros([BLOCK_N, ROWS], dtype=tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        left = tl.load(weights + step * BLOCK_K, eviction_policy="evict_first")
        right = tl.load(columns + step * BLOCK_K, mask=present, other=0.0)
        total = dot(left, right, total, WIDEN)
    if K % BLOCK_K != 0:
        offset = steps * BLOCK_K
        inside = offset + lane < tl.minimum(LENGTH, K - begin)
        left = tl.load(weights + offset, mask=inside[None, :], other=0.0)
        right = tl.load(columns + offset, mask=present & inside[:, None], other=0.0)
        total = dot(left, right, total, WIDEN)

    if SPLIT_K == 1:
        _store_tile(total, bias, out, tile, rows, N, ROWS, BLOCK_N, GATED, HAS_BIAS)
    else:
        place = tl.arange(0, BLOCK_N)[:, None] * ROWS + row
        mine = partials + (tile * SPLIT_K + split) * (BLOCK_N * ROWS)
        tl.store(mine + place, total, mask=present)
        if is_last_program(counters, tile, SPLIT_K):
            total = tl.zeros([BLOCK_N, ROWS], dtype=tl.float32)
            for part in tl.static_range(SPLIT_K):
                theirs = partials + (tile * SPLIT_K + part) * (BLOCK_N * ROWS)
                total += tl.load(theirs + place, mask=present, other=0.0, cache_modifier=".cg")
            _store_tile(total, bias, out, tile, rows, N, ROWS, BLOCK_N, GATED, HAS_BIAS)
