"""Parts of both kernels for products with few rows: prefetch, split sums, the epilogue.

A weight [n, k] is cut into tiles of BLOCK_N of its rows, and k into SPLIT_K parts. With GATED the
weight is [2 * N, k], gates first, and rows 2i and 2i+1 of a tile are a gate and the up row that
belongs to it, so that a tile holds all that BLOCK_N / 2 outputs need.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_rows(tile, N: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """int64 [BLOCK_N]: which rows of the weight a tile holds. Behind the end, the last again."""
    lane = tl.arange(0, BLOCK_N)
    if GATED:
        row = tl.minimum(tile * (BLOCK_N // 2) + lane // 2, N - 1) + (lane % 2) * N
    elif N % BLOCK_N == 0:
        row = tile * BLOCK_N + lane
    else:
        row = tl.minimum(tile * BLOCK_N + lane, N - 1)
    return row.to(tl.int64)


@triton.jit
def split_steps(
    split, K: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr, LENGTH: tl.constexpr
):
    """How many whole blocks part ``split`` of LENGTH elements of k has; a constant where it can."""
    if K % (BLOCK_K * SPLIT_K) == 0:
        steps = LENGTH // BLOCK_K
    else:
        steps = tl.maximum(tl.minimum(K - split * LENGTH, LENGTH), 0) // BLOCK_K
    return steps


@triton.jit
def prefetch(pointers):
    """Ask the second-level cache for the 128 bytes at each of ``pointers``."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [pointers.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def prefetch_start(start, BLOCK_N: tl.constexpr, LENGTH: tl.constexpr, LINE: tl.constexpr):
    """Prefetch the first LENGTH elements after each of the pointers ``start`` [BLOCK_N]; LINE
    elements are 128 bytes."""
    lines = tl.arange(0, LENGTH // LINE) * LINE
    prefetch(start[:, None] + lines[None, :])


@triton.jit
def dot(left, right, total, WIDEN: tl.constexpr):
    """``total + left @ right``, float32 exactly. WIDEN is for the interpreter, which multiplies
    the bits of bfloat16 as integers; the products are the same."""
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def is_last_program(counters, tile, SPLIT_K: tl.constexpr):
    """Whether all other parts of ``tile`` have stored their sums, which this program may then
    load; resets the arrival counter to zero."""
    tl.debug_barrier()
    counter = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    last = counter == SPLIT_K - 1
    if last:
        tl.store(counters + tile, 0)
    tl.debug_barrier()
    return last
