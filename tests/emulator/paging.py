"""Shared by the attention tests: a paged cache with garbage in every unused slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK = 4


@dataclass(frozen=True)
class Paged:
    """Dense keys and values per request, and the same in shuffled pages (the rest is NaN)."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    block_tables: torch.Tensor
    lengths: torch.Tensor


def make_paged(
    lengths: list[int], heads: int, dim: int, dtype: torch.dtype = torch.float32
) -> Paged:
    blocks = [-(-length // BLOCK) for length in lengths]
    order = torch.randperm(sum(blocks) + 2).tolist()
    shape = (sum(blocks) + 2, heads, BLOCK, dim)
    key_cache = torch.full(shape, float("nan"), dtype=dtype)
    value_cache = torch.full(shape, float("nan"), dtype=dtype)
    # Entries past a request's own blocks may be anything at all.
    tables = torch.full((len(lengths), max(blocks) + 1), 10**6, dtype=torch.int32)
    keys, values = [], []
    for row, length in enumerate(lengths):
        key = torch.randn(length, heads, dim).to(dtype)
        value = torch.randn(length, heads, dim).to(dtype)
        for block in range(blocks[row]):
            page = order.pop()
            tables[row, block] = page
            for offset in range(min(BLOCK, length - block * BLOCK)):
                key_cache[page, :, offset] = key[block * BLOCK + offset]
                value_cache[page, :, offset] = value[block * BLOCK + offset]
        keys.append(key)
        values.append(value)
    return Paged(
        keys, values, key_cache, value_cache, tables, torch.tensor(lengths, dtype=torch.int32)
    )


def dense_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    causal: bool = True,
) -> torch.Tensor:
    """torch's own attention in float64; queries [Lq, Hq, D] are the last positions of the keys."""
    length, total = query.shape[0], key.shape[0]
    mask = torch.ones(length, total, dtype=torch.bool)
    if causal:
        mask = mask.tril(total - length)
    group = query.shape[1] // key.shape[1]
    result: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
        query.double().transpose(0, 1),
        key.double().repeat_interleave(group, dim=1).transpose(0, 1),
        value.double().repeat_interleave(group, dim=1).transpose(0, 1),
        attn_mask=mask,
        scale=scale,
    ).transpose(0, 1)
    return result


def prefix_sum(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
