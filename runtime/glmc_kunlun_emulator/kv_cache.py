"""Emulated writes to the paged KV cache (record, section 2.5).

A cache is [num_blocks, Hkv, block_size, D]; slot = block * block_size + offset. Whether kernels
skip negative slots is not public: guard mode refuses them, without the guard they land at the end
of the cache, as a kernel that does not skip would do or worse.
"""

from __future__ import annotations

import torch

from glmc_runtime.kernels.vendor_functions.attention import HEAD_SIZES
from glmc_runtime.kernels.vendor_functions.row import Arguments

from .contract import (
    FLOATS,
    emulates,
    require,
    require_dtype,
    require_guard,
    require_shape,
)


def require_cache(place: str, name: str, cache: torch.Tensor) -> None:
    """Raise the vendor's failure unless `cache` is [num_blocks, Hkv, block_size, supported D]."""
    require(
        cache.dim() == 4 and cache.shape[-1] in HEAD_SIZES,
        f"{place}({name}=)",
        f"[num_blocks, Hkv, block_size, D], D one of {HEAD_SIZES}",
        tuple(cache.shape),
    )


def _guard_slots(arguments: Arguments) -> None:
    cache, blhd = arguments["key_cache"], arguments.get("BLHD_LAYOUT", False)
    if cache.dim() != 4:
        return
    slots = arguments["slot_mapping"][: arguments["key"].shape[0]]
    limit = cache.shape[0] * cache.shape[1 if blhd else 2]
    if slots.numel():
        low, high = int(slots.min()), int(slots.max())
        require_guard(
            low >= 0 and high < limit,
            "reshape_and_cache(slot_mapping=)",
            f"slots in [0, {limit})",
            f"[{low}, {high}]",
            "give padded rows slots in a reserved scratch block; negative slots are not known to be"
            " skipped",
        )


def _write(
    place: str,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    blhd: bool,
) -> None:
    require_dtype(place, "slot_mapping", slot_mapping, torch.int32, torch.int64)
    tokens = key.shape[0]
    require(
        slot_mapping.dim() == 1 and slot_mapping.shape[0] >= tokens,
        f"{place}(slot_mapping=)",
        f"at least {tokens} slots, one a row of key",
        tuple(slot_mapping.shape),
    )
    slots = slot_mapping[:tokens].long()
    pairs = (("key", key, key_cache), ("value", value, value_cache))
    for name, source, cache in pairs:
        require_dtype(place, name, source, *FLOATS)
        require_cache(place, f"{name}_cache", cache)
        require_dtype(place, f"{name}_cache", cache, source.dtype)
        heads = cache.shape[2 if blhd else 1]
        require_shape(place, name, source, (tokens, heads, cache.shape[-1]))
    for _, source, cache in pairs:
        block_size = cache.shape[1 if blhd else 2]
        block = torch.div(slots, block_size, rounding_mode="floor")
        offset = slots - block * block_size
        if blhd:
            cache[block, offset] = source
        else:
            cache[block, :, offset] = source


@emulates("reshape_and_cache_flash", guard=_guard_slots)
def reshape_and_cache_flash(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    BLHD_LAYOUT: bool,  # noqa: N803 - the vendor's own spelling
) -> None:
    """Scatter key, value [T, Hkv, D] into the caches. T is the number of key rows: slot_mapping may
    be longer, its tail is ignored. BLHD_LAYOUT=False is [num_blocks, Hkv, block_size, D].
    """
    _write("reshape_and_cache_flash", key, value, key_cache, value_cache, slot_mapping, BLHD_LAYOUT)
