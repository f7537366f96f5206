"""Online softmax: attention of query rows over part of a paged cache, a block of keys at a time.

The running result is kept beside the largest score so far and the sum of the weights. Logarithms
and scores are in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.linear.tiles import dot
from glmc_runtime.kernels.cuda.paged_cache import cache_places

LOG2_E = 1.4426950408889634


@triton.jit
def kv_split(tokens, split, splits, BLOCK: tl.constexpr, SHORTEST: tl.constexpr):
    """(first token, end, active splits) of ``split``. Splits are multiples of BLOCK and at least
    SHORTEST, but for the last; one split is active even without tokens."""
    size = tl.cdiv(tl.cdiv(tokens, splits), BLOCK) * BLOCK
    size = tl.maximum(size, SHORTEST)
    begin = split * size
    return begin, tl.minimum(begin + size, tokens), tl.maximum(tl.cdiv(tokens, size), 1)


@triton.jit
def load_row(pointers, columns, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of the caches; after HEAD_DIM they are zero."""
    if HEAD_DIM == WIDTH:
        rows = tl.load(pointers)
    else:
        rows = tl.load(pointers, mask=columns < HEAD_DIM, other=0.0)
    return rows


@triton.jit
def finite(top):
    """``top``, and 0 where there was no score: a difference from it is never NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def weigh(
    query, keys, start, end, limit, scale, top, weight, BLOCK: tl.constexpr, WIDEN: tl.constexpr
):
    """Weights [rows, BLOCK] of the tokens from ``start`` on, by how much what was summed before
    shrinks, and the new top and weight [rows]. ``limit`` and ``end`` as for ``attend``."""
    scores = tl.zeros([query.shape[0], BLOCK], dtype=tl.float32)
    scores = dot(query, tl.trans(keys), scores, WIDEN) * scale
    position = (start + tl.arange(0, BLOCK))[None, :]
    scores = tl.where((position <= limit) & (position < end), scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shrink = tl.exp2(top - new_top)
    weights = tl.exp2(scores - new_top[:, None])
    return weights, shrink, new_top, weight * shrink + tl.sum(weights, axis=1)


@triton.jit
def attend(
    query,
    key_cache,
    value_cache,
    table,
    kv_head,
    begin,
    end,
    limit,
    scale,
    total,
    top,
    weight,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Go on with a softmax over tokens [begin, end) of the sequence whose blocks ``table`` names.

    query [rows, WIDTH]; row i sees tokens up to ``limit``, a number or [rows, 1]. So far: total
    float32 [rows, WIDTH], top and weight [rows], the largest score and the sum of weights. Tokens
    after the end are loaded as the last one and get no weight: nothing else is ever touched. The
    blocks of the next tokens are loaded one round ahead, so that the loads of keys and values,
    which the compiler runs ahead of their use, do not wait for them.
    """
    step = tl.arange(0, BLOCK)
    columns = tl.arange(0, WIDTH)[None, :]
    last = tl.maximum(end - 1, 0)
    blocks = tl.load(table + tl.minimum(begin + step, last) // BLOCK_SIZE)
    for start in range(begin, end, BLOCK):
        tokens = tl.minimum(start + step, last)
        rows = cache_places(
            blocks, tokens, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
        )
        places = rows[:, None] + columns
        blocks = tl.load(table + tl.minimum(start + BLOCK + step, last) // BLOCK_SIZE)
        keys = load_row(key_cache + places, columns, HEAD_DIM, WIDTH)
        weights, shrink, top, weight = weigh(
            query, keys, start, end, limit, scale, top, weight, BLOCK, WIDEN
        )
        values = load_row(value_cache + places, columns, HEAD_DIM, WIDTH)
        total = dot(weights.to(values.dtype), values, total * shrink[:, None], WIDEN)
    return total, top, weight


@triton.jit
def first_tile(
    key_cache,
    value_cache,
    table,
    kv_head,
    begin,
    end,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keys and values [BLOCK, WIDTH] of the tokens from ``begin`` on, zero from ``end`` on."""
    tokens = begin + tl.arange(0, BLOCK)
    columns = tl.arange(0, WIDTH)[None, :]
    blocks = tl.load(table + tokens // BLOCK_SIZE, mask=tokens < end, other=0)
    rows = cache_places(
        blocks, tokens, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
    )
    places = rows[:, None] + columns
    present = (tokens < end)[:, None] & (columns < HEAD_DIM)
    keys = tl.load(key_cache + places, mask=present, other=0.0)
    values = tl.load(value_cache + places, mask=present, other=0.0)
    return keys, values


@triton.jit
def attend_first(query, keys, values, begin, end, scale, BLOCK: tl.constexpr, WIDEN: tl.constexpr):
    """total, top and weight of a softmax that begins with ``first_tile``; without tokens, a total
    and weight of zero."""
    scores = tl.zeros([query.shape[0], BLOCK], dtype=tl.float32)
    scores = dot(query, tl.trans(keys), scores, WIDEN) * scale
    position = (begin + tl.arange(0, BLOCK))[None, :]
    scores = tl.where(position < end, scores, float("-inf"))
    top = tl.max(scores, axis=1)
    weights = tl.exp2(scores - finite(top)[:, None])
    total = tl.zeros([query.shape[0], values.shape[1]], dtype=tl.float32)
    total = dot(weights.to(values.dtype), values, total, WIDEN)
    return total, top, tl.sum(weights, axis=1)
