"""Attention of a few query rows over a stretch of a paged cache, and how the stretches are merged.

The sequence is cut into at most ``splits`` stretches; how many are active is known only on the
device. Each active split leaves what it summed (its values, its largest score and its weights) in
the workspace. The last of each FAN neighbours to arrive merges them, and the last of those groups
merges the groups: two small steps, spread over programs, instead of one that reads everything.
Everything is summed in one fixed order, whoever arrives last. Scores are in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.products import dot


@triton.jit
def stretch(tokens, split, splits, BLOCK: tl.constexpr, SHORTEST: tl.constexpr):
    """(first token, token behind the last, active splits) of ``split``. Stretches are multiples of
    BLOCK and at least SHORTEST, but for the last; one split is active even without tokens."""
    size = tl.cdiv(tl.cdiv(tokens, splits), BLOCK) * BLOCK
    size = tl.maximum(size, SHORTEST)
    begin = split * size
    return begin, tl.minimum(begin + size, tokens), tl.maximum(tl.cdiv(tokens, size), 1)


@triton.jit
def cache_rows(blocks, tokens, kv_head, KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """int64 rows of the caches, seen as [rows, head_dim], of ``tokens`` that lie in ``blocks``."""
    return (blocks.to(tl.int64) * KV_HEADS + kv_head) * BLOCK_SIZE + tokens % BLOCK_SIZE


@triton.jit
def load_row(pointers, columns, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of the caches; behind HEAD_DIM they are zero."""
    if HEAD_DIM == WIDTH:
        rows = tl.load(pointers)
    else:
        rows = tl.load(pointers, mask=columns < HEAD_DIM, other=0.0)
    return rows


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
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Go on with a softmax over tokens [begin, end) of the sequence whose blocks ``table`` names.

    query [rows, WIDTH]; row i sees tokens up to ``limit``, a number or [rows, 1]. So far: total
    float32 [rows, WIDTH], top and weight [rows], the largest score and the sum of weights. Tokens
    behind the end are loaded as the last one and get no weight: nothing else is ever touched. The
    blocks of the next tokens are loaded one round ahead, so that the loads of keys and values,
    which the compiler runs ahead of their use, do not wait for them.
    """
    step = tl.arange(0, BLOCK)
    columns = tl.arange(0, WIDTH)[None, :]
    last = tl.maximum(end - 1, 0)
    blocks = tl.load(table + tl.minimum(begin + step, last) // BLOCK_SIZE)
    for start in range(begin, end, BLOCK):
        tokens = tl.minimum(start + step, last)
        rows = cache_rows(blocks, tokens, kv_head, KV_HEADS, BLOCK_SIZE)
        places = rows[:, None] * HEAD_DIM + columns
        blocks = tl.load(table + tl.minimum(start + BLOCK + step, last) // BLOCK_SIZE)
        keys = load_row(key_cache + places, columns, HEAD_DIM, WIDTH)
        scores = tl.zeros([query.shape[0], BLOCK], dtype=tl.float32)
        scores = dot(query, tl.trans(keys), scores, WIDEN) * scale
        position = (start + step)[None, :]
        scores = tl.where((position <= limit) & (position < end), scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        values = load_row(value_cache + places, columns, HEAD_DIM, WIDTH)
        total = dot(weights.to(values.dtype), values, total * shrink[:, None], WIDEN)
        weight = weight * shrink + tl.sum(weights, axis=1)
        top = new_top
    return total, top, weight


@triton.jit
def store_part(
    parts,
    statistics,
    slot,
    total,
    top,
    weight,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """parts float32 [slots, GROUP, HEAD_DIM], statistics float32 [slots, 2, GROUP]."""
    row = tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    place = (slot * GROUP + row[:, None]) * HEAD_DIM + columns
    tl.store(parts + place, total, mask=(row[:, None] < GROUP) & (columns < HEAD_DIM))
    tl.store(statistics + slot * (2 * GROUP) + row, top, mask=row < GROUP)
    tl.store(statistics + slot * (2 * GROUP) + GROUP + row, weight, mask=row < GROUP)


@triton.jit
def merge_parts(
    parts,
    statistics,
    slot,
    count,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """total, top and weight of ``count`` neighbours from ``slot`` on, TOGETHER loaded at once."""
    row = tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([ROWS], dtype=tl.float32)
    for first in range(0, count, TOGETHER):
        index = first + tl.arange(0, TOGETHER)
        present = (index < count)[:, None] & (row < GROUP)[None, :]
        where = statistics + (slot + index)[:, None] * (2 * GROUP) + row[None, :]
        tops = tl.load(where, mask=present, other=float("-inf"), cache_modifier=".cg")
        weights = tl.load(where + GROUP, mask=present, other=0.0, cache_modifier=".cg")
        place = ((slot + index)[:, None] * GROUP + row[None, :]) * HEAD_DIM
        totals = tl.load(
            parts + place[:, :, None] + columns[None, None, :],
            mask=present[:, :, None] & (columns < HEAD_DIM)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_top = tl.maximum(top, tl.max(tops, axis=0))
        # Rows behind GROUP have no scores at all: any finite number keeps NaN away.
        new_top = tl.where(row < GROUP, new_top, 0.0)
        shrink = tl.exp2(top - new_top)
        factors = tl.exp2(tops - new_top[None, :])
        total = total * shrink[:, None] + tl.sum(totals * factors[:, :, None], axis=0)
        weight = weight * shrink + tl.sum(weights * factors, axis=0)
        top = new_top
    return total, top, weight


@triton.jit
def store_result(
    out,
    total,
    weight,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """``out`` [GROUP, HEAD_DIM] = total / weight."""
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    weight = tl.where(row < GROUP, weight[:, None], 1.0)
    result = (total / weight).to(out.dtype.element_ty)
    mask = (row < GROUP) & (columns < HEAD_DIM)
    tl.store(out + row * HEAD_DIM + columns, result, mask=mask)


@triton.jit
def arrives_last(ticket, count):
    """Whether ``count - 1`` others came to ``ticket`` before; what they stored may then be loaded
    (past the first-level cache). Takes the ticket back to zero."""
    tl.debug_barrier()
    arrived = tl.atomic_add(ticket, 1, sem="acq_rel")
    is_last = arrived == count - 1
    if is_last:
        tl.store(ticket, 0)
    tl.debug_barrier()
    return is_last


@triton.jit
def finish(
    out,
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
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    FAN: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """Write ``out`` [GROUP, HEAD_DIM] if this is the last program of its ``pair`` (sequence and kv
    head), else leave the part for it. Per pair, slots: the splits, then the groups of FAN; tickets:
    one of the pair, then one per group."""
    if active == 1:
        store_result(out, total, weight, GROUP, ROWS, HEAD_DIM, WIDTH)
    else:
        most_groups = tl.cdiv(splits, FAN)
        first_slot = pair * (splits + most_groups)
        first_ticket = tickets + pair * (1 + most_groups)
        store_part(
            parts, statistics, first_slot + split, total, top, weight, GROUP, ROWS, HEAD_DIM, WIDTH
        )
        group = split // FAN
        members = tl.minimum(active - group * FAN, FAN)
        if arrives_last(first_ticket + 1 + group, members):
            merged, merged_top, merged_weight = merge_parts(
                parts,
                statistics,
                first_slot + group * FAN,
                members,
                GROUP,
                ROWS,
                HEAD_DIM,
                WIDTH,
                TOGETHER,
            )
            groups = tl.cdiv(active, FAN)
            if groups == 1:
                store_result(out, merged, merged_weight, GROUP, ROWS, HEAD_DIM, WIDTH)
            else:
                first_group = first_slot + splits
                store_part(
                    parts,
                    statistics,
                    first_group + group,
                    merged,
                    merged_top,
                    merged_weight,
                    GROUP,
                    ROWS,
                    HEAD_DIM,
                    WIDTH,
                )
                if arrives_last(first_ticket, groups):
                    whole, _, whole_weight = merge_parts(
                        parts,
                        statistics,
                        first_group,
                        groups,
                        GROUP,
                        ROWS,
                        HEAD_DIM,
                        WIDTH,
                        TOGETHER,
                    )
                    store_result(out, whole, whole_weight, GROUP, ROWS, HEAD_DIM, WIDTH)
