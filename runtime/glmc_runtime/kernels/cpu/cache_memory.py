"""The memory of one paged cache, whatever its strides: slots of one run, rows of one head.

A cache of our own is contiguous. One of an outer engine is a view of that engine's memory as
[blocks, block_size, kv_heads, head_dim], with heads before or after tokens, keys beside values, or
gaps between blocks. Where its blocks follow each other, slots count through them and a run of
blocks is one matrix per head; where not, a run ends with its block.
"""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import NamedTuple, Protocol

import torch

from glmc_runtime.kernels import Thunk


class Slots(Protocol):
    """Slots in the order of their numbers; a tensor whose first dimension counts them is one."""

    def narrow(self, dim: int, start: int, length: int) -> torch.Tensor:
        """``length`` slots of one run from ``start`` on; ``dim`` is 0."""
        ...


class _BlockSlots:
    """Slots of a cache [blocks, block_size, ...] whose blocks do not follow each other: every run
    begins with its block."""

    def __init__(self, cache: torch.Tensor) -> None:
        self._cache = cache

    def narrow(self, dim: int, start: int, length: int) -> torch.Tensor:
        return self._cache.select(0, start // self._cache.shape[1]).narrow(dim, 0, length)


class CacheRows(NamedTuple):
    """A cache as rows [rows, head_dim] of memory. Block b, token t, head h is the row
    ``b * block + t * token + h * head``."""

    rows: torch.Tensor
    block: int
    token: int
    head: int


def blocks_follow(cache: torch.Tensor) -> bool:
    """Whether the slots of a cache [blocks, block_size, kv_heads, head_dim] have one stride."""
    blocks, size = cache.shape[:2]
    return blocks == 1 or size == 1 or cache.stride(0) == size * cache.stride(1)


def slots_of(cache: torch.Tensor) -> Slots:
    """Slots of [kv_heads, head_dim] each."""
    return cache.view(-1, *cache.shape[2:]) if blocks_follow(cache) else _BlockSlots(cache)


def slots_by_head(cache: torch.Tensor) -> list[Slots]:
    """For each kv head its slots, of [head_dim] each."""
    follow = blocks_follow(cache)
    return [
        heads.view(-1, cache.shape[3]) if follow else _BlockSlots(heads)
        for heads in cache.unbind(2)
    ]


def write_slots(cache: torch.Tensor, slots: torch.Tensor, source: torch.Tensor) -> Thunk:
    """Write ``source`` [tokens, kv_heads, head_dim] to the slots int64 [tokens]. A slot that the
    cache does not have raises IndexError in the step."""
    if blocks_follow(cache):
        return partial(cache.view(-1, *cache.shape[2:]).index_copy_, 0, slots, source)
    size = cache.shape[1]

    def write() -> None:
        block = torch.div(slots, size, rounding_mode="floor")
        least = int(slots.min()) if slots.shape[0] else 0
        if least < 0:  # torch would count it from the end
            raise IndexError(f"slot {least} of a cache is negative: slots count from 0")
        cache.index_put_((block, slots - block * size), source)

    return write


def rows_of(cache: torch.Tensor) -> CacheRows:
    """The memory of a cache as rows; they overlap where its strides have no common factor as large
    as head_dim, so they are for reading."""
    sizes, strides = cache.shape[:3], cache.stride()[:3]
    pairs = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    unit = gcd(*(stride for _, stride in pairs)) if pairs else cache.shape[3]
    last = sum((size - 1) * stride for size, stride in pairs)
    rows = cache.as_strided((last // unit + 1, cache.shape[3]), (unit, 1))
    block, token, head = (stride // unit for stride in strides)
    return CacheRows(rows, block, token, head)
