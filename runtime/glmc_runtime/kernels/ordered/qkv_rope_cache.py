"""Split, norm, rotate and cache write, with the norms of heads in a fixed order of sums."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.cpu.qkv_rope_cache import SPLIT, split_and_rotate
from glmc_runtime.kernels.ordered.native import norm
from glmc_runtime.kernels.schema import schema


@register(
    "ordered.qkv_rope_cache",
    schema(*SPLIT, relations=("2*half <= head_dim",), together=(("q_norm", "k_norm", "normed"),)),
)
def qkv_rope_cache(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.qkv_rope_cache``, without the scratch of its norms."""

    def norms(heads: torch.Tensor, normed: torch.Tensor, q_heads: int) -> list[Thunk]:
        eps = float(arguments["norm_eps"])
        parts = (("q_norm", slice(0, q_heads)), ("k_norm", slice(q_heads, None)))
        return [norm(heads[:, part], arguments[name], eps, normed[:, part]) for name, part in parts]

    return split_and_rotate(arguments, norms)
