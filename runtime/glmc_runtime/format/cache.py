"""The paged cache of an artifact as a list of tensors: what each has for a token, in which layers.

Keys and values of attention are two rows of this list; a latent of another kind of attention, or a
scale of quantised keys, is one row more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

SCRATCH_BLOCK = 0
"""Where padded rows write; no sequence owns it."""
LAYOUTS = ("blocks_heads_tokens", "blocks_tokens_heads")
_MOST_DIMENSIONS = 4


class CacheKey(NamedTuple):
    """A tensor of the cache, such as ("key", 3)."""

    name: str
    layer: int


@dataclass(frozen=True)
class CacheTensor:
    """What the cache has under ``name`` in each of ``layers``: for a token numbers of ``shape``,
    such as (kv_heads, head_dim). Layers of another shape or dtype are another row of the name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class CacheSpec:
    """The tensors of the paged cache, one for each row and layer.

    ``layout`` says where the tokens of a block are: ``blocks_heads_tokens`` (the vendor's) after
    the first dimension of what a token has, [blocks, kv_heads, block_size, head_dim];
    ``blocks_tokens_heads`` before it, [blocks, block_size, kv_heads, head_dim]. What has one
    dimension is [blocks, block_size, size] in both.
    ``blocks_per_sequence`` is the width of a block table.
    """

    tensors: tuple[CacheTensor, ...]
    block_size: int
    blocks_per_sequence: int
    layout: str

    def tensor(self, name: str, layer: int) -> CacheTensor | None:
        """The row of a tensor, or None."""
        return self._rows.get((name, layer))

    @cached_property
    def _rows(self) -> dict[tuple[str, int], CacheTensor]:
        return {(row.name, layer): row for row in self.tensors for layer in row.layers}

    def block_shape(self, row: CacheTensor) -> tuple[int, ...]:
        """One block of a tensor: its shape without the dimension of blocks."""
        if self.layout == "blocks_heads_tokens" and len(row.shape) > 1:
            return (row.shape[0], self.block_size, *row.shape[1:])
        return (self.block_size, *row.shape)


def impossible(spec: CacheSpec) -> str | None:
    """What of a spec no cache can have, such as a size of 0; None where nothing is."""
    if spec.layout not in LAYOUTS:
        return f"cache.layout is {spec.layout!r}"
    for name in ("block_size", "blocks_per_sequence"):
        if getattr(spec, name) < 1:
            return f"cache.{name} is {getattr(spec, name)}"
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(spec.tensors):
        place = f"cache.tensors[{number}]"
        if not 0 < len(row.shape) <= _MOST_DIMENSIONS or min(row.shape) < 1:
            return f"{place}.shape is {row.shape}"
        places = {(row.name, layer) for layer in row.layers}
        if not row.layers or min(row.layers) < 0 or len(places) < len(row.layers) or places & seen:
            return f"{place}.layers is {shown(row.layers)}"
        seen |= places
    return None if spec.tensors else "cache.tensors is empty"


def shown(layers: tuple[int, ...]) -> str:
    """Layers for a reader, such as ``0 to 45``."""
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers[:12])) + (" ..." if len(layers) > 12 else "")
