"""Keys and values of a paged cache, gathered one context after the other for attention of libraries
that read no paged cache."""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.paged_cache import cache_places

GATHERED_ROWS = 32
"""Tokens that one program copies."""


@triton.jit(do_not_specialize=["table_stride", "least"])
def gather_kernel(
    key_cache,
    value_cache,
    tables,
    rows,
    cu_seqlens_k,
    keys,
    values,
    table_stride,
    least,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    """keys and values [tokens, KV_HEADS, HEAD_DIM]: the contexts one after the other, each by its
    row of ``tables``. Where one is shorter than ``least`` tokens, zeros follow."""
    kv_head, sequence = tl.program_id(0), tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    start = tl.load(cu_seqlens_k + sequence)
    length = tl.load(cu_seqlens_k + sequence + 1) - start
    begin = tl.program_id(2) * ROWS
    if begin >= tl.maximum(length, least):
        return
    tokens = begin + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    present = (tokens < length)[:, None] & (columns < HEAD_DIM)
    written = (tokens < tl.maximum(length, least))[:, None] & (columns < HEAD_DIM)
    table = tables + tl.load(rows + sequence).to(tl.int64) * table_stride
    blocks = tl.load(table + tokens // BLOCK_SIZE, mask=tokens < length, other=0)
    places = cache_places(
        blocks, tokens, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
    )
    source = places[:, None] + columns
    target = (start + tokens).to(tl.int64)
    place = (target[:, None] * KV_HEADS + kv_head) * HEAD_DIM + columns
    key = tl.load(key_cache + source, mask=present, other=0.0)
    value = tl.load(value_cache + source, mask=present, other=0.0)
    tl.store(keys + place, key, mask=written)
    tl.store(values + place, value, mask=written)
