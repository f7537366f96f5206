"""Attention of a library that reads a paged cache in place, where somebody has brought one.

torch's own flash attention reads no paged cache, and is that of Ampere. FlashAttention 3 does, and
is Hopper's, but has a package of its own, or comes inside of an engine, which then offers it here.
"""

from __future__ import annotations

from typing import Protocol

import torch


class PagedAttention(Protocol):
    """Causal attention of packed sequences, the mask aligned at the bottom right.

    query and out [tokens, q_heads, head_dim]; caches [blocks, block_size, kv_heads, head_dim] of
    any strides but the last; cu_seqlens_q int32 [sequences + 1]; lengths of contexts int32
    [sequences]; block_tables int32 [sequences, blocks_per_sequence].
    """

    def __call__(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        out: torch.Tensor,
        *,
        cu_seqlens_q: torch.Tensor,
        lengths: torch.Tensor,
        block_tables: torch.Tensor,
        longest_query: int,
        longest_context: int,
        scale: float,
    ) -> None: ...


_offered: PagedAttention | None = None


def offer_paged_attention(attention: PagedAttention | None) -> None:
    """Have packed steps that are bound from now on use it, on a device and for dtypes and heads
    that libraries serve."""
    global _offered
    _offered = attention


def offered_paged_attention() -> PagedAttention | None:
    return _offered
