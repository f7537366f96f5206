"""Places of keys and values in a paged cache [blocks, kv_heads, block_size, head_dim] of any
strides but the last, which is 1. Sizes and strides are constants of the compiled kernel, so that
those of a contiguous cache cost nothing more than its shape does."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.checks import require_caches, require_dtype

_MOST = 1 << 31


@triton.jit
def cache_places(
    blocks,
    tokens,
    kv_head,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
):
    """int64 places of the first entry of ``tokens`` that are in ``blocks``."""
    place = blocks.to(tl.int64) * BLOCK_STRIDE + kv_head.to(tl.int64) * HEAD_STRIDE
    return place + (tokens % BLOCK_SIZE) * TOKEN_STRIDE


def cache_constants(arguments: dict[str, Any], head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Check ``key_cache`` and ``value_cache``; the constants of :func:`cache_places`."""
    require_caches(arguments)
    cache: torch.Tensor = arguments["key_cache"]
    require_dtype("key_cache", cache, dtype)
    require_dtype("value_cache", arguments["value_cache"], dtype)
    block_size, size = cache.shape[2:]
    if size != head_dim:
        raise PlanError(
            "the heads of the caches have another size than those of the queries",
            expected=str(head_dim),
            found=str(size),
        )
    block_stride, head_stride, token_stride = cache.stride()[:3]
    if block_size * token_stride >= _MOST:
        raise PlanError(
            "the tokens of a block are too far apart in a cache",
            expected=f"a stride of tokens below {_MOST // block_size}",
            found=str(token_stride),
        )
    return {
        "BLOCK_SIZE": block_size,
        "BLOCK_STRIDE": block_stride,
        "HEAD_STRIDE": head_stride,
        "TOKEN_STRIDE": token_stride,
    }
