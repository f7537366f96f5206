"""Attention mathematics shared by the emulated attention calls: float32 throughout."""

from __future__ import annotations

import torch

from . import sums
from .contract import require, require_dtype, require_shape

QUERY_CHUNK = 1024  # bounds the score matrix on long prompts


def visible_keys(
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
    window_left: int,
    window_right: int,
) -> torch.Tensor | None:
    """Boolean mask [.., queries, keys], or None when every key is visible."""
    distance = key_positions.unsqueeze(-2) - query_positions.unsqueeze(-1)
    mask: torch.Tensor | None = None
    if causal:
        mask = distance <= 0
    if window_left >= 0:
        near = distance >= -window_left
        mask = near if mask is None else mask & near
    if window_right >= 0:
        near = distance <= window_right
        mask = near if mask is None else mask & near
    return mask


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None,
    sink: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grouped-query attention.

    query [B, Lq, Hq, D], key [B, Lk, Hkv, D], value [B, Lk, Hkv, Dv], mask [B or 1, Lq, Lk].
    Returns out [B, Lq, Hq, Dv] and natural-log lse [B, Hq, Lq], both float32.
    A sink fp32 [Hq] adds one logit with no value to each row.
    """
    outputs, sums = [], []
    for start in range(0, query.shape[1], QUERY_CHUNK):
        rows = slice(start, start + QUERY_CHUNK)
        part = None if mask is None else mask[:, rows]
        out, lse = _attend_rows(query[:, rows], key, value, scale, part, sink)
        outputs.append(out)
        sums.append(lse)
    return torch.cat(outputs, dim=1), torch.cat(sums, dim=2)


def _attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None,
    sink: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, length, query_heads, dim = query.shape
    kv_heads = key.shape[2]
    group = query_heads // kv_heads
    rows = query.float().view(batch, length, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
    keys = key.float().permute(0, 2, 3, 1).unsqueeze(2)
    values = value.float().permute(0, 2, 1, 3).unsqueeze(2)
    scores = torch.matmul(rows, keys) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    if sink is not None:
        lse = torch.logaddexp(lse, sink.float().view(1, kv_heads, group, 1))
    # A row that sees no key (chunked context) has lse -inf and output zero.
    weights = torch.exp(scores - torch.where(lse.isneginf(), 0.0, lse).unsqueeze(-1))
    out = torch.matmul(weights, values).permute(0, 3, 1, 2, 4)
    return (
        out.reshape(batch, length, query_heads, value.shape[-1]),
        lse.reshape(batch, query_heads, length),
    )


def gather_pages(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """cache [num_blocks, Hkv, block_size, D], blocks [B, n] -> [B, n*block_size, Hkv, D]."""
    pages = cache[blocks.long()].permute(0, 1, 3, 2, 4)
    batch, count, block_size, heads, dim = pages.shape
    return pages.reshape(batch, count * block_size, heads, dim)


def used_blocks(
    place: str, block_tables: torch.Tensor, lengths: list[int], cache: torch.Tensor
) -> torch.Tensor:
    """The part of block_tables that `lengths` reach, unused entries set to 0; [B, blocks]."""
    require_dtype(place, "block_tables", block_tables, torch.int32)
    num_blocks, _, block_size, _ = cache.shape
    counts = [-(-length // block_size) for length in lengths]
    reach = max(counts, default=0)
    require(
        block_tables.dim() == 2
        and block_tables.shape[0] == len(lengths)
        and block_tables.shape[1] >= reach,
        f"{place}(block_tables=)",
        f"[{len(lengths)}, at least {reach}]",
        tuple(block_tables.shape),
    )
    needed = torch.arange(reach, device=block_tables.device) < torch.tensor(
        counts, device=block_tables.device
    ).unsqueeze(-1)
    blocks = torch.where(needed, block_tables[:, :reach], 0)
    if blocks.numel():
        low, high = int(blocks.min()), int(blocks.max())
        require(
            low >= 0 and high < num_blocks,
            f"{place}(block_tables=)",
            f"blocks in [0, {num_blocks})",
            f"[{low}, {high}]",
            "hardware would read outside the cache",
        )
    return blocks


def decode(
    place: str,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    lengths: list[int],
    scale: float,
    window: int = -1,
    sink: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last `qlen` positions of each request against its pages; query [B, qlen, Hq, D].

    lengths include the new tokens; a query sees keys up to its own position, and with window > 0
    only the last `window` of them. Returns float32 [B, qlen, Hq, Dv].
    """
    require(
        query.shape[2] % key_cache.shape[1] == 0,
        f"{place}(q=)",
        f"a multiple of {key_cache.shape[1]} query heads",
        query.shape[2],
    )
    blocks = used_blocks(place, block_tables, lengths, key_cache)
    keys = gather_pages(key_cache, blocks)
    values = keys if value_cache is key_cache else gather_pages(value_cache, blocks)
    device, query_length = query.device, query.shape[1]
    ends = torch.tensor(lengths, device=device).unsqueeze(-1)
    key_positions = torch.arange(keys.shape[1], device=device).expand(len(lengths), -1)
    # Slots never written may hold anything, NaN too: zero them before the product.
    unused = (key_positions >= ends)[..., None, None]
    keys, values = keys.masked_fill(unused, 0), values.masked_fill(unused, 0)
    if sums.is_ordered():
        limited = {"window": (window, -1), "sink": (sink, None)}
        return sums.causal(place, query, keys, values, lengths, scale, limited)
    query_positions = ends - query_length + torch.arange(query_length, device=device)
    mask = visible_keys(query_positions, key_positions, True, window - 1 if window > 0 else -1, -1)
    return attend(query, keys, values, scale, mask, sink)[0]


def require_heads(place: str, name: str, sink: torch.Tensor | None, heads: int) -> None:
    """Raise the vendor's failure unless a given sink is fp32 [Hq]."""
    if sink is not None:
        require_dtype(place, name, sink, torch.float32)
        require_shape(place, name, sink, (heads,))
