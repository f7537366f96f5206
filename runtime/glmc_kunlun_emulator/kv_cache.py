"""Emulated writes to the paged KV cache (record, section 2.5).

A cache is [num_blocks, Hkv, block_size, D]; slot = block * block_size + offset. Whether kernels
skip negative slots is not public: guard mode refuses them, without the guard they land at the end
of the cache, as a kernel that does not skip would do or worse.
"""

from __future__ import annotations

import torch

from .contract import (
    FLOATS,
    Arguments,
    refuse_unmodelled,
    require,
    require_dtype,
    require_guard,
    require_shape,
    vendor_op,
)

HEAD_SIZES = (32, 64, 80, 96, 112, 120, 128, 192, 256, 512)


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


@vendor_op("reshape_and_cache_flash", in_place=("key_cache", "value_cache"), guard=_guard_slots)
def reshape_and_cache_flash(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    BLHD_LAYOUT: bool = False,  # noqa: N803 - the vendor's own spelling
) -> None:
    """Scatter key, value [T, Hkv, D] into the caches. T is the number of key rows: slot_mapping may
    be longer, its tail is ignored. BLHD_LAYOUT=False is [num_blocks, Hkv, block_size, D].
    """
    _write("reshape_and_cache_flash", key, value, key_cache, value_cache, slot_mapping, BLHD_LAYOUT)


@vendor_op("reshape_and_cache", in_place=("key_cache", "value_cache"), guard=_guard_slots)
def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_perchannel_max: torch.Tensor | None = None,
    v_perchannel_max: torch.Tensor | None = None,
    quant_mode: int = 0,
) -> None:
    """Like `reshape_and_cache_flash`; SGLang adds (None, None, 0), names of which are ours."""
    refuse_unmodelled(
        "reshape_and_cache",
        k_perchannel_max=(k_perchannel_max, None),
        v_perchannel_max=(v_perchannel_max, None),
        quant_mode=(quant_mode, 0),
    )
    _write("reshape_and_cache", key, value, key_cache, value_cache, slot_mapping, False)


@vendor_op("concat_and_cache_mla", in_place=("kv_cache",))
def concat_and_cache_mla(
    kv_c: torch.Tensor, k_pe: torch.Tensor, slot_mapping: torch.Tensor, kv_cache: torch.Tensor
) -> None:
    """Write [kv_c | k_pe] rows, [T, 512] and [T, 64], into kv_cache [blocks, block_size, 576]."""
    place = "concat_and_cache_mla"
    require_dtype(place, "slot_mapping", slot_mapping, torch.int32, torch.int64)
    row = torch.cat([kv_c, k_pe.reshape(kv_c.shape[0], -1)], dim=-1)
    require(
        kv_cache.dim() == 3 and kv_cache.shape[-1] == row.shape[-1],
        f"{place}(kv_cache=)",
        f"[num_blocks, block_size, {row.shape[-1]}]",
        tuple(kv_cache.shape),
        "the order here is (kv_c, k_pe, slot_mapping, kv_cache)",
    )
    require_dtype(place, "kv_cache", kv_cache, row.dtype)
    kv_cache.view(-1, row.shape[-1])[slot_mapping[: row.shape[0]].long()] = row


def _block_pairs(place: str, block_mapping: torch.Tensor) -> tuple[list[int], list[int]]:
    require(
        block_mapping.dim() == 2 and block_mapping.shape[-1] == 2,
        f"{place}(block_mapping=)",
        "[pairs, 2] of (source, destination)",
        tuple(block_mapping.shape),
    )
    return block_mapping[:, 0].tolist(), block_mapping[:, 1].tolist()


@vendor_op("copy_blocks", in_place=("key_caches", "value_caches"))
def copy_blocks(
    key_caches: list[torch.Tensor], value_caches: list[torch.Tensor], block_mapping: torch.Tensor
) -> None:
    """Copy whole blocks within each layer's caches; block_mapping [pairs, 2] source, target."""
    source, destination = _block_pairs("copy_blocks", block_mapping)
    for cache in (*key_caches, *value_caches):
        cache[destination] = cache[source]


@vendor_op("swap_blocks", in_place=("dst",))
def swap_blocks(src: torch.Tensor, dst: torch.Tensor, block_mapping: torch.Tensor) -> None:
    """Copy blocks of src to blocks of dst; block_mapping [pairs, 2] source, destination."""
    source, destination = _block_pairs("swap_blocks", block_mapping)
    dst[destination] = src[source].to(dst.device)


@vendor_op("compute_slot_mappings", profiles=("P-C",), in_place=("slot_mappings",))
def compute_slot_mappings(
    slot_mappings: list[torch.Tensor],
    block_tables: list[torch.Tensor],
    positions: torch.Tensor,
    query_start_loc: torch.Tensor,
    block_sizes: torch.Tensor,
    num_reqs: int,
    num_tokens: int,
    pad_slot_id: int,
    cp_world_size: int = 1,
    cp_rank: int = 0,
    cp_interleave: int = 1,
) -> None:
    """slot = block_table[request, position // block_size] * block_size + position % block_size, for
    each cache group; slots after num_tokens become pad_slot_id. No context parallelism.

    Argument names are ours: public callers pass them by position.
    """
    place = "compute_slot_mappings"
    refuse_unmodelled(place, cp_world_size=(cp_world_size, 1))
    ends = query_start_loc[: num_reqs + 1].long()
    lengths = ends.diff()
    require(
        int(lengths.sum()) == num_tokens,
        f"{place}(query_start_loc=)",
        f"{num_tokens} tokens",
        ends.tolist(),
    )
    request = torch.repeat_interleave(
        torch.arange(num_reqs, device=positions.device), lengths.to(positions.device)
    )
    where = positions[:num_tokens].long()
    for slots, table, size in zip(slot_mappings, block_tables, block_sizes.tolist(), strict=True):
        blocks = table[request, torch.div(where, size, rounding_mode="floor")].long()
        slots[:num_tokens] = (blocks * size + where % size).to(slots.dtype)
        slots[num_tokens:] = pad_slot_id
