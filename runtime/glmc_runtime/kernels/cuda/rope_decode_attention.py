"""A decode step's rotation, cache write and attention in one launch, for one token per sequence.

Every program norms and rotates the query heads of its group in registers. The program of the first
split does so with the new key too, writes it and the new value to the cache, and begins its softmax
with them; nobody reads the new slot, so that no program waits for another.

What is cached was written by earlier steps, and lengths and tables before this step: with a head
start, all of it is read, and the keys and values are asked for, while the kernel before still
multiplies. Only ``qkv`` is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.cuda import decode_attention
from glmc_runtime.kernels.cuda.checks import optional, require_one_device
from glmc_runtime.kernels.cuda.decode_attention import (
    LOG2_E,
    Shape,
    choose,
    constants,
    reserve,
    shape_of,
)
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.products import prefetch
from glmc_runtime.kernels.cuda.qkv_rope_cache import rope_arguments
from glmc_runtime.kernels.cuda.rotary import load_waves, norm_rotate, partner_columns
from glmc_runtime.kernels.cuda.split_attention import attend, cache_rows, finish, stretch
from glmc_runtime.kernels.cuda.tuned import Configuration

_LINE = 128  # bytes that the second-level cache loads at once


@triton.jit
def ask_for_rows(
    key_cache,
    value_cache,
    table,
    kv_head,
    begin,
    end,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PREFETCH: tl.constexpr,
    LINE: tl.constexpr,
):
    """Ask the second-level cache for the first PREFETCH tokens of [begin, end), LINE entries at a
    time; tokens behind the end are the last one again."""
    LINES: tl.constexpr = HEAD_DIM // LINE
    tokens = tl.minimum(begin + tl.arange(0, PREFETCH), tl.maximum(end - 1, 0))
    blocks = tl.load(table + tokens // BLOCK_SIZE)
    rows = cache_rows(blocks, tokens, kv_head, KV_HEADS, BLOCK_SIZE)
    places = rows[:, None] * HEAD_DIM + (tl.arange(0, LINES) * LINE)[None, :]
    prefetch(key_cache + places)
    prefetch(value_cache + places)


@triton.jit(do_not_specialize=["table_stride", "splits"])
def rope_decode_attention_kernel(
    qkv,
    q_norm,
    k_norm,
    cos_sin,
    positions,
    slot_mapping,
    key_cache,
    value_cache,
    tables,
    lengths,
    out,
    parts,
    statistics,
    tickets,
    table_stride,
    splits,
    scale,
    eps,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
    SHORTEST: tl.constexpr,
    FAN: tl.constexpr,
    TOGETHER: tl.constexpr,
    PREFETCH: tl.constexpr,
    LINE: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    split, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    cached = tl.load(lengths + sequence) - 1
    position = tl.load(positions + sequence)
    begin, end, active = stretch(cached, split, splits, BLOCK, SHORTEST)
    if split >= active:
        return
    table = tables + sequence.to(tl.int64) * table_stride
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    others = partner_columns(columns, ROTARY, INTERLEAVED)
    in_head = columns < HEAD_DIM
    inside = (row < GROUP) & in_head
    cos, sin = load_waves(cos_sin + position * ROTARY, columns, ROTARY, INTERLEAVED)
    q_weight, q_other, k_weight, k_other = 1.0, 1.0, 1.0, 1.0
    if NORM:
        q_weight = tl.load(q_norm + columns, mask=in_head, other=0.0)
        q_other = tl.load(q_norm + others, mask=in_head, other=0.0)
        k_weight = tl.load(k_norm + columns, mask=in_head, other=0.0)
        k_other = tl.load(k_norm + others, mask=in_head, other=0.0)
    if PDL:
        if PREFETCH > 0:
            ask_for_rows(
                key_cache,
                value_cache,
                table,
                kv_head,
                begin,
                end,
                KV_HEADS,
                BLOCK_SIZE,
                HEAD_DIM,
                PREFETCH,
                LINE,
            )
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first = qkv + sequence.to(tl.int64) * ((Q_HEADS + 2 * KV_HEADS) * HEAD_DIM)
    source = first + (kv_head * GROUP + row) * HEAD_DIM
    heads = tl.load(source + columns, mask=inside, other=0.0)
    partners = tl.load(source + others, mask=inside, other=0.0)
    query = norm_rotate(
        heads, partners, q_weight, q_other, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
    )
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([ROWS], dtype=tl.float32)
    if split == 0:
        new = first + (Q_HEADS + kv_head) * HEAD_DIM
        key = tl.load(new + columns, mask=in_head, other=0.0)
        partner = tl.load(new + others, mask=in_head, other=0.0)
        value = tl.load(new + KV_HEADS * HEAD_DIM + columns, mask=in_head, other=0.0)
        key = norm_rotate(
            key, partner, k_weight, k_other, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
        )
        slot = tl.load(slot_mapping + sequence)
        place = cache_rows(slot // BLOCK_SIZE, slot, kv_head, KV_HEADS, BLOCK_SIZE) * HEAD_DIM
        tl.store(key_cache + place + columns, key, mask=in_head)
        tl.store(value_cache + place + columns, value, mask=in_head)
        top = tl.sum(query.to(tl.float32) * key.to(tl.float32), axis=1) * scale
        weight = tl.full([ROWS], 1.0, dtype=tl.float32)
        total = tl.broadcast_to(value.to(tl.float32), [ROWS, WIDTH])
    total, top, weight = attend(
        query,
        key_cache,
        value_cache,
        table,
        kv_head,
        begin,
        end,
        end,
        scale,
        total,
        top,
        weight,
        KV_HEADS,
        BLOCK_SIZE,
        HEAD_DIM,
        WIDTH,
        BLOCK,
        WIDEN,
    )
    pair = sequence * KV_HEADS + kv_head
    finish(
        out + pair * GROUP * HEAD_DIM,
        parts,
        statistics,
        tickets,
        pair,
        split,
        splits,
        active,
        total,
        top,
        weight,
        GROUP,
        ROWS,
        HEAD_DIM,
        WIDTH,
        FAN,
        TOGETHER,
    )


def candidates(shape: Shape) -> Iterator[Configuration]:
    """Those of ``cuda.decode_attention``, and the first with other lengths asked for ahead."""
    plain = decode_attention.candidates(shape)
    first = next(plain)
    yield first
    for tokens in (0, 64, 256):
        yield first | {"PREFETCH": tokens}
    yield from plain


@register("cuda.rope_decode_attention")
def rope_decode_attention(arguments: dict[str, Any]) -> Thunk:
    """``cuda.qkv_rope_cache`` and ``cuda.decode_attention`` in one, for one new token per sequence.

    qkv [sequences, (q_heads + 2 * kv_heads) * head_dim] -> out [sequences, q_heads, head_dim]; the
    new token's key and value go to slot_mapping, the context_lengths - 1 before it are cached. No
    sequence may have its slot where another reads.
    """
    qkv, out, tables = arguments["qkv"], arguments["out"], arguments["block_tables"]
    shape = shape_of(arguments)
    shared = rope_arguments(arguments, shape.sequences, shape.q_heads, shape.head_dim)
    require_one_device(qkv, out)
    q_norm, k_norm = optional(arguments, "q_norm"), optional(arguments, "k_norm")
    chosen = choose("rope_decode_attention", arguments, shape, out.device)
    line = _LINE // qkv.element_size()
    ahead: int = chosen["PREFETCH"] if "PREFETCH" in chosen else chosen["SHORTEST"]
    if shape.head_dim % line or shape.head_dim & (shape.head_dim - 1) or ahead & (ahead - 1):
        ahead = 0
    meta = constants(shape, chosen, shared["BLOCK_SIZE"]) | shared
    return partial(
        launch,
        rope_decode_attention_kernel,
        (chosen["splits"], shape.kv_heads, shape.sequences),
        qkv,
        qkv if q_norm is None else q_norm,
        qkv if k_norm is None else k_norm,
        arguments["cos_sin"],
        arguments["positions"].view(-1),
        arguments["slot_mapping"].view(-1),
        arguments["key_cache"],
        arguments["value_cache"],
        tables,
        arguments["context_lengths"],
        out,
        *reserve(shape, chosen, out.device),
        tables.shape[1],
        chosen["splits"],
        float(arguments["scale"]) * LOG2_E,
        float(arguments["norm_eps"]) if q_norm is not None else 0.0,
        **(meta | {"PREFETCH": ahead, "LINE": line}),
        pdl=pdl_enabled(out.device),
    )
