"""Attention under a mask that is handed over, and that may hide every key of a query."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weigh = Callable[[Tensor], Tensor]


class Spelling(NamedTuple):
    """``safe``: a query that sees nothing gets zeros, not NaN; ``weigh`` None: sdpa."""

    weigh: Weigh | None
    safe: bool


SPELLINGS: dict[str, Spelling] = {
    "sdpa": Spelling(None, True),
    "softmax": Spelling(lambda scores: scores.softmax(-1), False),
    "softmax_in_float32": Spelling(
        lambda scores: F.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype), False
    ),
    "_softmax": Spelling(lambda scores: torch.ops.aten._softmax.default(scores, -1, False), False),
    "safe_softmax": Spelling(lambda scores: torch.ops.aten._safe_softmax.default(scores, -1), True),
}


def by_head(x: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim]."""
    return x.view(*x.shape[:2], 4, 16).transpose(1, 2)


class Masked(nn.Module):
    """q, k and v are [batch, tokens, heads * head_dim]; the result is [batch, heads, ...]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.weigh = SPELLINGS[name].weigh

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        if self.weigh is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.25)
        return self.weigh(q @ k.transpose(-1, -2) * 0.25 + mask) @ v


def operands(
    tokens: int, dtype: torch.dtype = torch.float32, keys: int = 9
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, and a mask of two sequences: by -inf it hides some keys of the first, and all from
    the last query of the second."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(2, length, 4 * 16, generator=generator).to(dtype)
        for length in (tokens, keys, keys)
    )
    mask = torch.zeros(2, 1, tokens, keys, dtype=dtype)
    mask[0, ..., 4:] = -torch.inf
    mask[1, :, -1] = -torch.inf
    return q, k, v, mask
