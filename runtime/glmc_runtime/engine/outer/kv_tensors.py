"""The KV cache of an outer engine: its tensors, and their layout in words.

A layout names the dimensions of a tensor from the outermost in, such as ``"kv blocks tokens heads
dim"``: keys and values in one tensor, tokens of a block before heads. Nothing is copied: keys and
values are views of the engine's memory in the order of dimensions that the artifact's kernels have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import torch

from glmc_runtime import arguments as kinds
from glmc_runtime.errors import RequestError
from glmc_runtime.format.cache import SCRATCH_BLOCK, CacheKey, CacheSpec
from glmc_runtime.format.dtypes import dtype_of

LayerTensors = Union[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]
"""Of one layer: keys and values in one tensor, or a tensor of each."""

_ORDER = ("blocks", "tokens", "heads", "dim")
_EXPECTED = (
    "blocks and tokens, or slots; heads; dim, or kv*dim where a value follows its key; and kv "
    "where one tensor has both otherwise"
)


@dataclass(frozen=True)
class KVTensors:
    """The paged cache of an outer engine.

    ``layers`` has for each layer, in their order, one tensor or a pair of keys and values.
    ``layout`` names the dimensions of each tensor in order, with a space between: ``blocks``;
    ``tokens`` of a block; ``heads``; ``dim`` of a head, contiguous in memory; ``kv``, of size 2,
    where one tensor has keys and values; ``kv*dim``, of twice the size, where the value of a head
    follows its key; ``slots`` in place of blocks and tokens where a pool is flat, which needs
    ``block_size``. Strides are free, as far as the artifact's kernels read them.

    Padded rows of a step write to the block ``scratch_block``, which no sequence may own. All
    memory that a block table can name must hold finite numbers, so it is best zeroed once.
    """

    layers: Sequence[LayerTensors]
    layout: str
    block_size: int | None = None
    scratch_block: int = SCRATCH_BLOCK


@dataclass(frozen=True)
class CacheViews:
    """Views of an outer engine's memory by name and layer, each [blocks, ...] as a block is in the
    artifact's layout."""

    tensors: dict[CacheKey, torch.Tensor]
    blocks: int
    block_size: int


def cache_views(kv: KVTensors, spec: CacheSpec) -> CacheViews:
    """The keys and values of each layer of ``spec``, whose block size they need not have; raises
    :class:`RequestError` for tensors that are not those of the artifact's cache."""
    words = _words(kv)
    block_size = kinds.optional(kinds.integer, "block_size", kv.block_size, least=1)
    kinds.integer("scratch_block", kv.scratch_block)
    outer_layers = kinds.items_of("layers", kv.layers, "tensors, or pairs of them")
    layers = sorted({layer for row in spec.tensors for layer in row.layers})
    if {row.name for row in spec.tensors} != {"key", "value"}:
        raise RequestError(
            "the artifact's cache has other tensors than keys and values",
            found=", ".join(sorted({row.name for row in spec.tensors})),
        )
    if len(outer_layers) != len(layers):
        raise RequestError(
            "the KV cache has another number of layers than the artifact",
            expected=f"{len(layers)} layers",
            found=f"{len(outer_layers)}",
        )
    tensors: dict[CacheKey, torch.Tensor] = {}
    sizes: set[tuple[int, int]] = set()
    for layer, memory in zip(layers, outer_layers, strict=True):
        for name, view in zip(("key", "value"), _pair(memory, words, kv, layer), strict=True):
            _check(view, name, layer, spec)
            sizes.add((view.shape[0], view.shape[1]))
            heads_first = spec.layout == "blocks_heads_tokens"
            tensors[CacheKey(name, layer)] = view.transpose(1, 2) if heads_first else view
    if len(sizes) != 1:
        raise RequestError(
            "the layers of the KV cache differ in blocks or block size",
            found=", ".join(f"{blocks} of {size} tokens" for blocks, size in sorted(sizes)),
        )
    ((blocks, tokens),) = sizes
    if block_size not in (None, tokens):
        raise RequestError(
            "the blocks of the KV cache have another size than block_size says",
            expected=f"{block_size} tokens",
            found=f"{tokens} tokens",
        )
    _require_apart(tensors)
    if not 0 <= kv.scratch_block < blocks:
        raise RequestError(
            "the scratch block is no block of the KV cache",
            expected=f"0 to {blocks - 1}",
            found=str(kv.scratch_block),
        )
    return CacheViews(tensors, blocks, tokens)


def _require_apart(tensors: dict[CacheKey, torch.Tensor]) -> None:
    """No two views may begin at one place, and none may repeat its own memory."""
    owners: dict[int, CacheKey] = {}
    for key, view in tensors.items():
        sizes = zip(view.stride(), view.shape, strict=True)
        repeats = any(not stride and size > 1 for stride, size in sizes)
        owner = owners.setdefault(view.data_ptr(), key)
        if repeats or owner != key:
            raise RequestError(
                "tensors of the KV cache share memory",
                expected="memory of its own for each layer's keys and values",
                found=f"{key.name} of layer {key.layer}, and "
                + ("itself" if repeats else f"{owner.name} of layer {owner.layer}"),
            )


def _words(kv: KVTensors) -> list[str]:
    """The dimensions that a layout names; raises :class:`RequestError` for one that can't be."""
    words = kinds.text("layout", kv.layout).split()
    rest = set(words) - {"kv"}
    known = ({"blocks", "tokens"}, {"slots"}), ({"dim"}, {"kv*dim"})
    fits = any(
        rest == {"heads"} | places | sizes for places in known[0] for sizes in known[1]
    ) and not {"kv", "kv*dim"} <= set(words)
    if not fits or len(set(words)) != len(words):
        raise RequestError("this is no layout of a KV cache", expected=_EXPECTED, found=kv.layout)
    if "slots" in rest and kv.block_size is None:
        raise RequestError(
            "a KV cache of slots does not say how many are a block",
            expected="block_size=64, such as the page size of the pool",
            found=kv.layout,
        )
    return words


def _pair(
    memory: object, words: list[str], kv: KVTensors, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer, [blocks, tokens, heads, dim]."""
    together = "kv" in words or "kv*dim" in words
    tensors = tuple(memory) if isinstance(memory, (tuple, list)) else (memory,)
    each = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    if len(tensors) != (1 if together else 2) or len(each) != len(tensors):
        raise RequestError(
            f"layer {layer} of the KV cache has another number of tensors than the layout says",
            expected="one tensor" if together else "a pair: keys and values",
            found=f"{len(each)} for '{kv.layout}'",
        )
    for tensor in each:
        named = dict(zip(words, tensor.shape, strict=False))
        fits = tensor.dim() == len(words) and 0 not in named.values()
        if not fits or named.get("kv", 2) != 2 or named.get("kv*dim", 2) % 2:
            raise RequestError(
                f"layer {layer} of the KV cache has not the dimensions of its layout",
                expected=kv.layout,
                found=str(list(tensor.shape)),
            )
    if "kv" in words:
        keys, values = each[0].unbind(words.index("kv"))
        words = [word for word in words if word != "kv"]
    elif together:
        place = words.index("kv*dim")
        keys, values = each[0].chunk(2, place)
        words = [*words[:place], "dim", *words[place + 1 :]]
    else:
        keys, values = each
    return _paged(keys, words, kv.block_size), _paged(values, words, kv.block_size)


def _paged(tensor: torch.Tensor, words: list[str], block_size: int | None) -> torch.Tensor:
    """A view [blocks, tokens, heads, dim]; slots after the last whole block are left out."""
    if "slots" in words and block_size is not None:
        place = words.index("slots")
        blocks = tensor.shape[place] // block_size
        whole = tensor.narrow(place, 0, blocks * block_size)
        tensor = whole.unflatten(place, (blocks, block_size))
        words = [*words[:place], "blocks", "tokens", *words[place + 1 :]]
    return tensor.permute([words.index(word) for word in _ORDER])


def _check(view: torch.Tensor, name: str, layer: int, spec: CacheSpec) -> None:
    row = spec.tensor(name, layer)
    if row is None:
        raise RequestError(f"the artifact's cache has no '{name}' of layer {layer}")
    dtype = dtype_of(row.dtype)
    if tuple(view.shape[2:]) != row.shape or view.dtype != dtype or view.stride(3) != 1:
        raise RequestError(
            f"the {name} tensor of layer {layer} is another than the artifact's cache has",
            expected=f"{dtype}, {row.shape[0]} heads of {row.shape[-1]} contiguous numbers",
            found=f"{view.dtype}, {view.shape[2]} heads of {view.shape[3]} numbers, "
            f"{view.stride(3)} apart",
            remedy="give the engine this dtype for its KV cache, or compile for its dtype; check "
            "the layout",
        )
