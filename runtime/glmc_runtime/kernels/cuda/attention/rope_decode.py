"""A decode step's rotation, cache write and attention in one launch, for one token per sequence.

Every program norms and rotates the query heads of its group in registers. The program of the first
split does so with the new key too, writes it and the new value to the cache, and leaves the new
token's score to who reduces the splits; nobody reads the new slot, so that no program waits for
another.

What is cached was written by earlier steps, and lengths, slots and tables before this step: with
PDL, all of it is read, the first tile of keys and values is loaded and more are asked for,
while the kernel before still multiplies. Only ``qkv`` is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import optional, require_one_device
from glmc_runtime.kernels.cuda.attention import splits as decode_splits
from glmc_runtime.kernels.cuda.attention.decode import (
    constants,
    shape_of,
    split_workspace,
    with_reduction,
)
from glmc_runtime.kernels.cuda.attention.online_softmax import (
    LOG2_E,
    attend,
    attend_first,
    first_tile,
    kv_split,
)
from glmc_runtime.kernels.cuda.attention.split_reduce import finish
from glmc_runtime.kernels.cuda.attention.splits import REACHES, Shape, choose
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.linear.tiles import prefetch
from glmc_runtime.kernels.cuda.paged_cache import cache_places
from glmc_runtime.kernels.cuda.qkv_rope_cache import (
    ROPE_ARGUMENTS,
    ROPE_RELATIONS,
    rope_arguments,
)
from glmc_runtime.kernels.cuda.rotary import (
    load_partners,
    load_waves,
    norm_rotate,
    partner_columns,
)
from glmc_runtime.kernels.cuda.tuned import Configuration
from glmc_runtime.kernels.schema import number, schema, tensor, written

_LINE = 128  # bytes that the second-level cache loads at once


@triton.jit
def ask_for_rows(
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
    PREFETCH: tl.constexpr,
    LINE: tl.constexpr,
):
    """Ask the second-level cache for the first PREFETCH tokens of [begin, end), LINE entries at a
    time; tokens after the end are the last one again."""
    LINES: tl.constexpr = HEAD_DIM // LINE
    tokens = tl.minimum(begin + tl.arange(0, PREFETCH), tl.maximum(end - 1, 0))
    blocks = tl.load(table + tokens // BLOCK_SIZE)
    rows = cache_places(
        blocks, tokens, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
    )
    places = rows[:, None] + (tl.arange(0, LINES) * LINE)[None, :]
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
    partials,
    lse,
    new_scores,
    counters,
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
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
    SHORTEST: tl.constexpr,
    FAN: tl.constexpr,
    TOGETHER: tl.constexpr,
    LAST_REDUCES: tl.constexpr,
    LEVELS: tl.constexpr,
    PREFETCH: tl.constexpr,
    LINE: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    split, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    cached = tl.load(lengths + sequence) - 1
    position = tl.load(positions + sequence)
    slot = tl.load(slot_mapping + sequence)
    begin, end, active = kv_split(cached, split, splits, BLOCK, SHORTEST)
    if split >= active:
        return
    table = tables + sequence.to(tl.int64) * table_stride
    keys, values = first_tile(
        key_cache,
        value_cache,
        table,
        kv_head,
        begin,
        end,
        BLOCK_SIZE,
        BLOCK_STRIDE,
        HEAD_STRIDE,
        TOKEN_STRIDE,
        HEAD_DIM,
        WIDTH,
        BLOCK,
    )
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    in_head = columns < HEAD_DIM
    cos, sin = load_waves(cos_sin + position * ROTARY, columns, ROTARY, INTERLEAVED)
    q_weight, q_other, k_weight, k_other = 1.0, 1.0, 1.0, 1.0
    if NORM:
        others = partner_columns(columns, ROTARY, INTERLEAVED)
        q_weight = tl.load(q_norm + columns, mask=in_head, other=0.0)
        q_other = tl.load(q_norm + others, mask=in_head, other=0.0)
        k_weight = tl.load(k_norm + columns, mask=in_head, other=0.0)
        k_other = tl.load(k_norm + others, mask=in_head, other=0.0)
    if PDL:
        if PREFETCH > 0 and end - begin > BLOCK:
            ask_for_rows(
                key_cache,
                value_cache,
                table,
                kv_head,
                begin + BLOCK,
                end,
                BLOCK_SIZE,
                BLOCK_STRIDE,
                HEAD_STRIDE,
                TOKEN_STRIDE,
                HEAD_DIM,
                PREFETCH,
                LINE,
            )
        tl.extra.cuda.gdc_wait()
    first = qkv + sequence.to(tl.int64) * ((Q_HEADS + 2 * KV_HEADS) * HEAD_DIM)
    source = first + (kv_head * GROUP + row) * HEAD_DIM
    inside = (row < GROUP) & in_head
    heads = tl.load(source + columns, mask=inside, other=0.0)
    partners = load_partners(source, heads, columns, inside, HEAD_DIM, ROTARY, INTERLEAVED)
    # The new key once per row, in the layout of the queries: no entry moves between threads.
    source = first + (Q_HEADS + kv_head) * HEAD_DIM + row * 0
    new_value = first + (Q_HEADS + KV_HEADS + kv_head) * HEAD_DIM
    inside = (row < tl.where(split == 0, ROWS, 0)) & in_head
    key = tl.load(source + columns, mask=inside, other=0.0)
    key_partners = load_partners(source, key, columns, inside, HEAD_DIM, ROTARY, INTERLEAVED)
    value = tl.load(new_value + row * 0 + columns, mask=inside, other=0.0)
    query = norm_rotate(
        heads, partners, q_weight, q_other, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
    )
    pair = sequence * KV_HEADS + kv_head
    if split == 0:
        key = norm_rotate(
            key, key_partners, k_weight, k_other, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
        )
        score = tl.sum(query.to(tl.float32) * key.to(tl.float32), axis=1) * scale
        rows = tl.arange(0, ROWS)
        tl.store(new_scores + pair * GROUP + rows, score, mask=rows < GROUP)
        place = cache_places(
            slot // BLOCK_SIZE, slot, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
        )
        once = in_head & (row == 0)
        tl.store(key_cache + place + row * 0 + columns, key, mask=once)
        tl.store(value_cache + place + row * 0 + columns, value, mask=once)
    total, top, weight = attend_first(query, keys, values, begin, end, scale, BLOCK, WIDEN)
    if begin + BLOCK < end:
        total, top, weight = attend(
            query,
            key_cache,
            value_cache,
            table,
            kv_head,
            begin + BLOCK,
            end,
            end,
            scale,
            total,
            top,
            weight,
            BLOCK_SIZE,
            BLOCK_STRIDE,
            HEAD_STRIDE,
            TOKEN_STRIDE,
            HEAD_DIM,
            WIDTH,
            BLOCK,
            WIDEN,
        )
    finish(
        out + pair * GROUP * HEAD_DIM,
        partials,
        lse,
        counters,
        new_scores + pair * GROUP,
        new_value,
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
        LAST_REDUCES,
        LEVELS,
        True,
    )


def candidates(shape: Shape) -> Iterator[Configuration]:
    """Those of ``cuda.decode_attention``; where contexts are long, and the first with nothing asked
    for ahead."""
    yield from decode_splits.candidates(shape)
    if shape.longest > REACHES[0]:
        yield decode_splits.default(shape) | {"PREFETCH": 0}


@register(
    "cuda.rope_decode_attention",
    schema(
        *ROPE_ARGUMENTS,
        tensor("block_tables", "tokens table", "int32", holds="block_tables"),
        tensor("context_lengths", "tokens", "int32", holds="context_lengths"),
        number("scale"),
        written("out", "tokens q_heads head_dim", like="qkv"),
        relations=("q_heads % kv_heads == 0", *ROPE_RELATIONS),
        together=(("q_norm", "k_norm"),),
    ),
)
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
    configuration = choose("rope_decode_attention", arguments, shape, out.device)
    line = _LINE // qkv.element_size()
    ahead: int = (
        configuration["PREFETCH"] if "PREFETCH" in configuration else configuration["SHORTEST"]
    )
    if shape.head_dim % line or shape.head_dim & (shape.head_dim - 1) or ahead & (ahead - 1):
        ahead = 0
    meta = constants(shape, configuration, {}) | shared
    meta["enable_fp_fusion"] = False  # eager code rounds each product of a rotation
    scratch = split_workspace(shape, configuration, out.device)
    attend = partial(
        launch,
        rope_decode_attention_kernel,
        (configuration["splits"], shape.kv_heads, shape.sequences),
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
        scratch.partials,
        scratch.lse,
        scratch.new_scores,
        scratch.counters,
        tables.shape[1],
        configuration["splits"],
        float(arguments["scale"]) * LOG2_E,
        float(arguments["norm_eps"]) if q_norm is not None else 0.0,
        **(meta | {"PREFETCH": ahead, "LINE": line}),
        pdl=pdl_enabled(out.device),
    )
    values = qkv[:, (shape.q_heads + shape.kv_heads) * shape.head_dim :]
    return with_reduction(
        attend, shape, configuration, scratch, arguments["context_lengths"], out, values
    )
