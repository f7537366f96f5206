"""Paged caches for the tests of attention: shuffled blocks, NaN where nothing may be read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glmc.ir.ops.attention import causal_mask, gather_cache
from glmc_runtime.kernels.cuda import workspace

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Paged:
    """Caches [blocks, kv_heads, block_size, head_dim] with ``lengths`` tokens of each sequence.

    Block 0 is the scratch block of padded rows and is finite; ``owned`` is true where a sequence
    has a token.
    """

    keys: Tensor
    values: Tensor
    tables: Tensor
    owned: Tensor

    def slots(self, sequence: int, begin: int, end: int) -> Tensor:
        """The slots of tokens [begin, end) of a sequence."""
        block_size = self.keys.shape[2]
        positions = torch.arange(begin, end)
        blocks = self.tables[sequence].cpu()[positions // block_size].long()
        return (blocks * block_size + positions % block_size).to(DEVICE)


def paged(
    lengths: list[int],
    kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    room: int = 0,
    seed: int = 5,
) -> Paged:
    """``room`` is how many tokens each table has place for, at least the longest sequence."""
    generator = torch.Generator().manual_seed(seed)
    per_sequence = -(-max(*lengths, room, 1) // block_size)
    blocks = 2 + len(lengths) * per_sequence
    order = torch.randperm(blocks - 1, generator=generator) + 1
    tables = order[: len(lengths) * per_sequence].view(len(lengths), per_sequence)
    shape = (blocks, kv_heads, block_size, head_dim)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    owned = torch.zeros(blocks, block_size, dtype=torch.bool)
    owned[0] = True
    for sequence, length in enumerate(lengths):
        for position in range(length):
            block = tables[sequence, position // block_size]
            owned[block, position % block_size] = True
    for cache in (keys, values):
        cache.transpose(1, 2)[~owned] = torch.nan
    return Paged(keys.to(DEVICE), values.to(DEVICE), tables.int().to(DEVICE), owned.to(DEVICE))


def unchanged(cache: Tensor, before: Tensor, slots: Tensor) -> bool:
    """Whether ``cache`` has the bits of ``before`` everywhere but at ``slots``."""
    kept = torch.ones(cache.shape[0] * cache.shape[2], dtype=torch.bool, device=cache.device)
    kept[slots] = False
    old, new = (
        tensor.transpose(1, 2).reshape(-1, cache.shape[1], cache.shape[3])[kept]
        for tensor in (before, cache)
    )
    return torch.equal(old.nan_to_num(nan=7.0), new.nan_to_num(nan=7.0)) and torch.equal(
        old.isnan(), new.isnan()
    )


def eager(
    query: Tensor,
    caches: tuple[Tensor, Tensor],
    tables: Tensor,
    queries: list[int],
    lengths: list[int],
    scale: float,
) -> Tensor:
    """Causal attention as Hugging Face's eager code rounds it: scores and weights in the dtype.

    ``queries`` of each sequence, one after the other, are its last of ``lengths``; zeros follow.
    """
    out, start = torch.zeros_like(query), 0
    for table, count, length in zip(tables, queries, lengths, strict=True):
        keys, values = (gather_cache(cache, table, length) for cache in caches)
        group = query.shape[1] // keys.shape[1]
        keys, values = (part.repeat_interleave(group, 1).transpose(0, 1) for part in (keys, values))
        scores = query[start : start + count].transpose(0, 1) @ keys.transpose(1, 2) * scale
        scores = scores.masked_fill(~causal_mask(count, length, query.device), -torch.inf)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        out[start : start + count] = (weights @ values).transpose(0, 1)
        start += count
    return out


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def counters_are_zero() -> bool:
    return not workspace.arrival_counters(DEVICE, 4096).any()


def not_worse(out: Tensor, eager: Tensor, exact: Tensor) -> None:
    """``out`` is at most 1.25 times as far from ``exact`` as ``eager`` in the same dtype is, and
    the worst entry twice as far; more where bfloat16 is cut off, since errors then add up."""
    assert out.isfinite().all()
    most = 4.0 if cuts_off(out.dtype) else 1.25
    ours, theirs = (out.double() - exact).abs(), (eager.double() - exact).abs()
    assert ours.square().mean().sqrt() <= most * theirs.square().mean().sqrt()
    assert ours.max() <= 2 * most * theirs.max()


def cuts_off(dtype: torch.dtype) -> bool:
    """Whether a conversion to ``dtype`` is not rounded: so does the interpreter with bfloat16."""
    return dtype == torch.bfloat16 and DEVICE.type == "cpu"
