"""Emulated norms: `rmsnorm` and `add_rmsnorm`.

Formulas and call forms: the public record of the vendor interface, section 2.1. Assumed: the norm
is computed in float32 with one rounding at the end (Hugging Face rounds before the weight);
`add_rmsnorm` rounds x+y to the activation dtype first and normalises the rounded sum.
"""

from __future__ import annotations

import torch

from . import sums
from .contract import FLOATS, emulates, require_dtype, require_shape


def _normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return sums.normalised(x, eps) * weight.float()


def _check(place: str, x: torch.Tensor, weight: torch.Tensor, *same: torch.Tensor | None) -> None:
    require_dtype(place, "x", x, *FLOATS)
    require_shape(place, "x", x, (x.numel() // max(x.shape[-1], 1), x.shape[-1]))
    require_shape(place, "weight", weight, (x.shape[-1],))
    require_dtype(place, "weight", weight, x.dtype)
    for tensor in same:
        if tensor is not None:
            require_shape(place, "y/output", tensor, tuple(x.shape))
            require_dtype(place, "y/output", tensor, x.dtype)


@emulates("rmsnorm")
def rmsnorm(
    x: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    eps: float,
) -> None:
    """output = x / sqrt(mean(x^2) + eps) * weight, over rows of x [T, H] or [T*heads, D]."""
    _check("rmsnorm", x, weight, output)
    output.copy_(_normalise(x, weight, eps))


@emulates("add_rmsnorm")
def add_rmsnorm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    eps: float,
    residual_output: torch.Tensor | None,
) -> None:
    """residual_output = x + y; output = rmsnorm(x + y) * weight; may be written into y and x."""
    _check("add_rmsnorm", x, weight, y, output, residual_output)
    total = x + y
    output.copy_(_normalise(total, weight, eps))
    if residual_output is not None:
        residual_output.copy_(total)
