"""The emulated rotary embedding (record, section 2.3).

The cache is [max_pos, rotary_dim]: cosines first, sines second, each rotary_dim/2 wide, in the
dtype of the query. Only the first rotary_dim entries of each head turn; the tail is left as is.
"""

from __future__ import annotations

import torch

from glmc_runtime.kernels.vendor_functions.row import Arguments

from .contract import (
    FLOATS,
    emulates,
    require,
    require_dtype,
    require_guard,
    require_shape,
)


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


@emulates("rotary_embedding", guard=guard_positions)
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
