"""Split-KV reduction (flash-decoding): the partial results of a sequence's KV splits become one.

The sequence is cut into at most ``splits`` KV splits; how many are active is known only on the
device. Each active split leaves a partial result in the workspace, with its LSE (the logarithm of
the sum of its weights). Partials are reduced by the last program to arrive, which an arrival
counter tells, or by another launch. By counters: the last of each FAN neighbours to arrive reduces
them, and the last of those groups reduces the groups: two small steps, spread over programs,
instead of one that reads everything. By a launch: one program per query head reads all partials at
once, which needs no fence and no counter, but one launch more. Either way everything is summed in
one fixed order, whoever arrives last. Logarithms and scores are in powers of two.

A new token whose key and value are not cached enters the reduction as its score and its value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda.attention.online_softmax import finite, kv_split


@triton.jit
def store_partial(
    partials,
    lse,
    slot,
    total,
    top,
    weight,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """partials float32 [slots, GROUP, HEAD_DIM], lse float32 [slots, GROUP]."""
    row = tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    place = (slot * GROUP + row[:, None]) * HEAD_DIM + columns
    weight = tl.where(weight > 0.0, weight, 1.0)  # without tokens, total is 0 and top -inf
    part = total * (1.0 / weight)[:, None]
    tl.store(partials + place, part, mask=(row[:, None] < GROUP) & (columns < HEAD_DIM))
    tl.store(lse + slot * GROUP + row, top + tl.log2(weight), mask=row < GROUP)


@triton.jit
def reduce_partials(
    partials,
    lse,
    slot,
    count,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """total, top and weight of ``count`` neighbours from ``slot`` on, TOGETHER loaded at once.

    Partials are the axis in the middle: so the compiler gives each thread all partials of its
    entries, and sums them without a shuffle.
    """
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, None, :]
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([ROWS], dtype=tl.float32)
    for first in range(0, count, TOGETHER):
        index = first + tl.arange(0, TOGETHER)[None, :]
        present = (row < GROUP) & (index < count)
        where = (slot + index) * GROUP + row
        tops = tl.load(lse + where, mask=present, other=float("-inf"), cache_modifier=".cg")
        totals = tl.load(
            partials + where[:, :, None] * HEAD_DIM + columns,
            mask=present[:, :, None] & (columns < HEAD_DIM),
            other=0.0,
            cache_modifier=".cg",
        )
        new_top = tl.maximum(top, tl.max(tops, axis=1))
        shrink = tl.exp2(top - finite(new_top))
        factors = tl.exp2(tops - finite(new_top)[:, None])
        total = total * shrink[:, None] + tl.sum(totals * factors[:, :, None], axis=1)
        weight = weight * shrink + tl.sum(factors, axis=1)
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
    SAFE: tl.constexpr,
):
    """``out`` [GROUP, HEAD_DIM] = total / weight; without a weight 0, or NaN if not SAFE."""
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    share = 1.0 / tl.where(weight > 0.0, weight, 1.0)
    if not SAFE:
        share = tl.where(weight > 0.0, share, float("nan"))
    result = (total * share[:, None]).to(out.dtype.element_ty)
    mask = (row < GROUP) & (columns < HEAD_DIM)
    tl.store(out + row * HEAD_DIM + columns, result, mask=mask)


@triton.jit
def is_last_program(counter, count):
    """Whether this program is the last of ``count`` to arrive at ``counter``; what the others
    stored may then be loaded (past the first-level cache). Resets the counter to zero."""
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel")
    is_last = arrived == count - 1
    if is_last:
        tl.store(counter, 0)
    tl.debug_barrier()
    return is_last


@triton.jit
def slots_per_pair(splits, FAN: tl.constexpr, LAST_REDUCES: tl.constexpr):
    """Slots of partials: the splits, then with LAST_REDUCES the groups of FAN."""
    return splits + tl.cdiv(splits, FAN) if LAST_REDUCES else splits


@triton.jit
def finish(
    out,
    partials,
    lse,
    counters,
    new_score,
    new_value,
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
    LAST_REDUCES: tl.constexpr,
    LEVELS: tl.constexpr,
    NEW: tl.constexpr,
    SAFE: tl.constexpr = True,
):
    """Store the partial result of this split; with LAST_REDUCES, write ``out`` [GROUP, HEAD_DIM] if
    this is the last program of its ``pair`` (sequence and kv head).

    With NEW, ``new_score`` [GROUP], which split 0 has stored, and ``new_value`` [HEAD_DIM] are of
    a token that no split has. LEVELS is 1 where all splits fit into one group of FAN. Tickets
    per pair: one of the pair, then one per group.
    """
    first_slot = pair * slots_per_pair(splits, FAN, LAST_REDUCES)
    store_partial(
        partials, lse, first_slot + split, total, top, weight, GROUP, ROWS, HEAD_DIM, WIDTH
    )
    if LAST_REDUCES:
        first_counter = counters + pair * (1 + tl.cdiv(splits, FAN))
        group = split // FAN
        members = tl.minimum(active - group * FAN, FAN)
        is_last = active == 1
        if is_last:
            tl.debug_barrier()
        else:
            is_last = is_last_program(first_counter + 1 + group, members)
        if is_last:
            if NEW:
                row = tl.arange(0, ROWS)
                columns = tl.arange(0, WIDTH)[None, :]
                score = tl.load(
                    new_score + row,
                    mask=row < tl.where(group == 0, GROUP, 0),
                    other=float("-inf"),
                    cache_modifier=".cg",
                )
                value = tl.load(new_value + columns, mask=columns < HEAD_DIM, other=0.0)
            whole, whole_top, whole_weight = reduce_partials(
                partials,
                lse,
                first_slot + group * FAN,
                members,
                GROUP,
                ROWS,
                HEAD_DIM,
                WIDTH,
                TOGETHER,
            )
            if NEW:
                new_top = tl.maximum(whole_top, score)
                shrink = tl.exp2(whole_top - finite(new_top))
                factor = tl.exp2(score - finite(new_top))
                whole = whole * shrink[:, None] + value.to(tl.float32) * factor[:, None]
                whole_weight = whole_weight * shrink + factor
                whole_top = new_top
            if LEVELS > 1:
                groups = tl.cdiv(active, FAN)
                if groups > 1:
                    first_group = first_slot + splits
                    store_partial(
                        partials,
                        lse,
                        first_group + group,
                        whole,
                        whole_top,
                        whole_weight,
                        GROUP,
                        ROWS,
                        HEAD_DIM,
                        WIDTH,
                    )
                    is_last = is_last_program(first_counter, groups)
                    if is_last:
                        whole, whole_top, whole_weight = reduce_partials(
                            partials,
                            lse,
                            first_group,
                            groups,
                            GROUP,
                            ROWS,
                            HEAD_DIM,
                            WIDTH,
                            TOGETHER,
                        )
            if is_last:
                store_result(out, whole, whole_weight, GROUP, ROWS, HEAD_DIM, WIDTH, SAFE)


@triton.jit(do_not_specialize=["splits", "value_stride"])
def reduce_kernel(
    partials,
    lse,
    new_scores,
    new_values,
    lengths,
    out,
    splits,
    value_stride,
    Q_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SHORTEST: tl.constexpr,
    MOST: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """Reduces all partials, at most MOST, of one query head, for ``finish`` without LAST_REDUCES.

    new_scores [sequences, Q_HEADS]; new_values [KV_HEADS, HEAD_DIM] of the first sequence, those of
    the next ``value_stride`` after.
    """
    head, sequence = tl.program_id(0), tl.program_id(1)
    tokens = tl.load(lengths + sequence)
    if NEW:
        tokens -= 1
    _, _, active = kv_split(tokens, 0, splits, BLOCK, SHORTEST)
    index = tl.arange(0, MOST)
    columns = tl.arange(0, WIDTH)
    kv_head = head // GROUP
    slot = (sequence * (Q_HEADS // GROUP) + kv_head) * splits + index
    where = slot * GROUP + head % GROUP
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    tops = tl.load(lse + where, mask=index < active, other=float("-inf"), cache_modifier=".cg")
    totals = tl.load(
        partials + where[:, None] * HEAD_DIM + columns[None, :],
        mask=(index < active)[:, None] & (columns < HEAD_DIM)[None, :],
        other=0.0,
        cache_modifier=".cg",
    )
    top = tl.max(tops, axis=0)
    if NEW:
        score = tl.load(new_scores + sequence * Q_HEADS + head, cache_modifier=".cg")
        place = sequence.to(tl.int64) * value_stride + kv_head * HEAD_DIM + columns
        value = tl.load(new_values + place, mask=columns < HEAD_DIM, other=0.0).to(tl.float32)
        top = tl.maximum(top, score)
    factors = tl.exp2(tops - top)
    weight = tl.sum(factors, axis=0)
    total = tl.sum(totals * factors[:, None], axis=0)
    if NEW:
        factor = tl.exp2(score - top)
        weight += factor
        total += value * factor
    place = (sequence * Q_HEADS + head) * HEAD_DIM + columns
    tl.store(out + place, (total / weight).to(out.dtype.element_ty), mask=columns < HEAD_DIM)
