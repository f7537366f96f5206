"""Paged caches as outer engines keep them, as views [blocks, block_size, kv_heads, head_dim]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import torch

Caches = tuple[torch.Tensor, torch.Tensor]
Kind = Union[torch.dtype, torch.device]
Make = Callable[..., Caches]
"""Blocks, block size, heads, head_dim, dtype and (the host's, if left out) device to zeros."""


def _named(kind: tuple[Kind, ...]) -> dict[str, Any]:
    return dict(zip(("dtype", "device"), kind, strict=False))


def _two(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    keys, values = (torch.zeros(blocks, size, heads, dim, **_named(kind)) for _ in range(2))
    return keys, values


def _two_heads_first(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    keys, values = (torch.zeros(blocks, heads, size, dim, **_named(kind)) for _ in range(2))
    return keys.transpose(1, 2), values.transpose(1, 2)


def _keys_then_values(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    keys, values = torch.zeros(2, blocks, size, heads, dim, **_named(kind)).unbind(0)
    return keys, values


def _by_block(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    keys, values = torch.zeros(blocks, 2, size, heads, dim, **_named(kind)).unbind(1)
    return keys, values


def _by_block_heads_first(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    keys, values = torch.zeros(blocks, 2, heads, size, dim, **_named(kind)).unbind(1)
    return keys.transpose(1, 2), values.transpose(1, 2)


def _side_by_side(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    whole = torch.zeros(blocks, heads, size, 2 * dim, **_named(kind)).transpose(1, 2)
    return whole[..., :dim], whole[..., dim:]


def _padded_blocks(blocks: int, size: int, heads: int, dim: int, *kind: Kind) -> Caches:
    """A block is followed by a gap that is no multiple of a row."""
    length = size * heads * dim
    memory = torch.zeros(2, blocks, length + 3, **_named(kind))
    keys, values = (part[:, :length].view(blocks, size, heads, dim) for part in memory)
    return keys, values


LAYOUTS: dict[str, Make] = {
    "two": _two,
    "two_heads_first": _two_heads_first,
    "keys_then_values": _keys_then_values,
    "by_block": _by_block,
    "by_block_heads_first": _by_block_heads_first,
    "side_by_side": _side_by_side,
    "padded_blocks": _padded_blocks,
}
