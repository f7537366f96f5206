"""Emulated rotary embeddings (record, sections 2.3 and 2.4).

The cache is [max_pos, rotary_dim]: cosines first, sines second, each rotary_dim/2 wide, in the
dtype of the query. Only the first rotary_dim entries of each head turn; the tail is left as is.
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

ASSUMED_SPLIT_NORM_EPS = 1e-6


def rotate(
    heads: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, neox: bool
) -> torch.Tensor:
    """Turn heads [T, heads, D] by the angles of positions [T]; returns float32, same shape."""
    half = cache.shape[-1] // 2
    angles = cache.float()[positions.long()].unsqueeze(1)
    cosine, sine = angles[..., :half], angles[..., half:]
    values = heads.float()
    turned = values.clone()
    part = values[..., : 2 * half]
    if neox:
        first, second = part[..., :half], part[..., half:]
        turned[..., :half] = first * cosine - second * sine
        turned[..., half : 2 * half] = second * cosine + first * sine
    else:
        first, second = part[..., 0::2], part[..., 1::2]
        turned[..., 0 : 2 * half : 2] = first * cosine - second * sine
        turned[..., 1 : 2 * half : 2] = second * cosine + first * sine
    return turned


def _check_cache(place: str, cache: torch.Tensor, query: torch.Tensor, head_size: int) -> None:
    require_dtype(place, "query", query, *FLOATS)
    require_dtype(place, "cos_sin_cache", cache, query.dtype)
    require(
        cache.dim() == 2 and cache.shape[-1] % 2 == 0 and cache.shape[-1] <= head_size,
        f"{place}(cos_sin_cache=)",
        f"[max_pos, rotary_dim] with an even rotary_dim <= {head_size}",
        tuple(cache.shape),
    )


def guard_positions(arguments: Arguments) -> None:
    positions, cache = arguments["positions"], arguments["cos_sin_cache"]
    if positions.numel():
        low, high = int(positions.min()), int(positions.max())
        require_guard(
            low >= 0 and high < cache.shape[0],
            "rotary(positions=)",
            f"positions in [0, {cache.shape[0]})",
            f"[{low}, {high}]",
            "the kernel would read outside the cos/sin cache",
        )


@vendor_op("rotary_embedding", in_place=("query", "key"), guard=guard_positions)
def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> None:
    """Turn query [T, Hq*D] and key [T, Hkv*D] in place; positions int64 [T]; rotary_dim is the
    width of the cache. `is_neox` pairs i with i + rotary_dim/2, else 2i with 2i + 1.
    """
    place = "rotary_embedding"
    _check_cache(place, cos_sin_cache, query, head_size)
    require_dtype(place, "positions", positions, torch.int64)
    tokens = positions.numel()
    require_shape(place, "positions", positions, (tokens,))
    for name, tensor in (("query", query), ("key", key)):
        require_dtype(place, name, tensor, query.dtype)
        require(
            tensor.dim() == 2 and tensor.shape[0] == tokens and tensor.shape[1] % head_size == 0,
            f"{place}({name}=)",
            f"[{tokens}, heads * {head_size}]",
            tuple(tensor.shape),
        )
        heads = tensor.view(tokens, -1, head_size)
        heads.copy_(rotate(heads, positions, cos_sin_cache, is_neox))


@vendor_op("flashinfer_rotary_embedding", namespace="xspeedgate_ops", guard=guard_positions)
def flashinfer_rotary_embedding(
    positions: torch.Tensor,
    rotary_dim: int,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
    query: torch.Tensor,
    key: torch.Tensor,
    offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Functional form: query, key [T, heads, D] stay as they are; turned copies are returned."""
    place = "flashinfer_rotary_embedding"
    refuse_unmodelled(place, offsets=(offsets, None))
    _check_cache(place, cos_sin_cache, query, head_size)
    require(
        cos_sin_cache.shape[-1] == rotary_dim,
        f"{place}(rotary_dim=)",
        f"the width of the cache, {cos_sin_cache.shape[-1]}",
        rotary_dim,
    )
    for name, tensor in (("query", query), ("key", key)):
        require(
            tensor.dim() == 3 and tensor.shape[0] == positions.numel(),
            f"{place}({name}=)",
            f"[{positions.numel()}, heads, {head_size}]",
            tuple(tensor.shape),
        )
        require(
            tensor.shape[-1] == head_size, f"{place}({name}=)", f"D = {head_size}", tensor.shape[-1]
        )
    return (
        rotate(query, positions, cos_sin_cache, is_neox_style).to(query.dtype),
        rotate(key, positions, cos_sin_cache, is_neox_style).to(key.dtype),
    )


def _head_norm(heads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    values = heads.float()
    scale = torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + ASSUMED_SPLIT_NORM_EPS)
    return values * scale * weight.float()


@vendor_op("split_norm_rope_neox", outputs=("q_emb", "k_emb", "v_out"))
def split_norm_rope_neox(
    q_emb: torch.Tensor,
    k_emb: torch.Tensor,
    v_out: torch.Tensor,
    qkv: torch.Tensor,
    rotary_pos_embedding: torch.Tensor,
    q_norm_weight: torch.Tensor,
    k_norm_weight: torch.Tensor,
    positions: torch.Tensor,
    num_tokens: int,
    max_seqlen: int,
    head_num: int,
    kv_head_num: int,
    head_dim: int,
    rotary_dim: int,
    emb_batch_size: int = 1,
) -> None:
    """Split qkv [T, (Hq+2Hkv)*D], norm each q and k head, turn them (neox), write three outputs.

    Assumed, since it is not public: eps is 1e-6 inside the kernel; the norm is not rounded before
    the turn. The table is [2, 1, max_pos, rotary_dim], cosines and sines each written twice.
    """
    place = "split_norm_rope_neox"
    refuse_unmodelled(place, emb_batch_size=(emb_batch_size, 1))
    require_dtype(place, "qkv", qkv, *FLOATS)
    require_shape(place, "qkv", qkv, (num_tokens, (head_num + 2 * kv_head_num) * head_dim))
    require_shape(place, "q_emb", q_emb, (num_tokens, head_num * head_dim))
    require_shape(place, "k_emb", k_emb, (num_tokens, kv_head_num * head_dim))
    require_shape(place, "v_out", v_out, (num_tokens, kv_head_num * head_dim))
    require_shape(place, "q_norm_weight", q_norm_weight, (head_dim,))
    require_shape(place, "k_norm_weight", k_norm_weight, (head_dim,))
    table = rotary_pos_embedding
    require_shape(place, "rotary_pos_embedding", table, (2, 1, max_seqlen, rotary_dim))
    half = rotary_dim // 2
    cache = torch.cat([table[0, 0, :, :half], table[1, 0, :, :half]], dim=-1)
    key_start, value_start = head_num * head_dim, (head_num + kv_head_num) * head_dim
    query, value = qkv[:, :key_start], qkv[:, value_start:]
    key = qkv[:, key_start:value_start]
    for source, weight, target in ((query, q_norm_weight, q_emb), (key, k_norm_weight, k_emb)):
        heads = _head_norm(source.reshape(num_tokens, -1, head_dim), weight)
        target.copy_(rotate(heads, positions, cache, True).reshape(target.shape))
    v_out.copy_(value)
