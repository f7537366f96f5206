"""Heads in registers: the norm of each head and partial rope, rounded where eager code rounds.

A head is rotated without moving its entries between threads: each entry is loaded together with its
partner, the entry that it is rotated with, so that ``new = entry * cos + partner * sin`` (the sign
is in sin). All column indices are int32 [1, width], width a power of two and at least the head.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def partner_columns(columns, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The column that each column is rotated with; after the rotated ones, itself."""
    if INTERLEAVED:
        partners = columns ^ 1
    else:
        partners = tl.where(columns < ROTARY // 2, columns + ROTARY // 2, columns - ROTARY // 2)
    return tl.where(columns < ROTARY, partners, columns)


@triton.jit
def swap_pairs(rows):
    """``rows`` with the entries of each pair of neighbours swapped, without leaving the thread."""
    firsts, seconds = tl.split(tl.reshape(rows, [rows.shape[0], rows.shape[1] // 2, 2]))
    return tl.reshape(tl.join(seconds, firsts), rows.shape)


@triton.jit
def load_partners(
    place, rows, columns, mask, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """The partners of heads ``rows``, which were loaded from ``place + columns`` under ``mask``."""
    if INTERLEAVED:
        partners = swap_pairs(rows)
    else:
        others = partner_columns(columns, ROTARY, INTERLEAVED)
        if ROTARY % 16 == 0 and HEAD_DIM % 8 == 0:
            others = tl.max_contiguous(tl.multiple_of(others, (1, 8)), (1, 8))
        partners = tl.load(place + others, mask=mask, other=0.0)
    return partners


@triton.jit
def load_waves(row, columns, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr):
    """float32 cos and signed sin like ``columns``, from the pointer to one row of the table."""
    HALF: tl.constexpr = ROTARY // 2
    if INTERLEAVED:
        pair = columns // 2
        is_first = columns % 2 == 0
    else:
        pair = columns % HALF
        is_first = columns < HALF
    rotates = columns < ROTARY
    cos = tl.load(row + pair, mask=rotates, other=0.0).to(tl.float32)
    sin = tl.load(row + HALF + pair, mask=rotates, other=0.0).to(tl.float32)
    return cos, tl.where(is_first, -sin, sin)


@triton.jit
def norm_rotate(
    heads,
    partners,
    weight,
    partner_weight,
    eps,
    cos,
    sin,
    columns,
    NORM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY: tl.constexpr,
):
    """heads [rows, width] normed by their weights, if NORM, and rotated; in the dtype of heads.

    ``partners`` are the heads at ``partner_columns``; both are zero after HEAD_DIM. The weights
    broadcast to the heads, cos and sin are those of ``load_waves``.
    """
    dtype = heads.dtype
    entry, partner = heads.to(tl.float32), partners.to(tl.float32)
    if NORM:
        variance = tl.sum(entry * entry, axis=1) / HEAD_DIM
        factor = tl.rsqrt(variance + eps)[:, None]
        entry = (entry * factor).to(dtype).to(tl.float32) * weight.to(tl.float32)
        partner = (partner * factor).to(dtype).to(tl.float32) * partner_weight.to(tl.float32)
        entry, partner = entry.to(dtype).to(tl.float32), partner.to(dtype).to(tl.float32)
    rotated = (entry * cos).to(dtype).to(tl.float32) + (partner * sin).to(dtype).to(tl.float32)
    return tl.where(columns < ROTARY, rotated, entry).to(dtype)
