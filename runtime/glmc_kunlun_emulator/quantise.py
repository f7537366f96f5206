"""The vendor's int8 convention, shared by several families: absmax, not scale.

q = round(x * 127 / absmax), real = q * absmax / 127 (record, section 2.0). Checkpoint scales are
multiplied by 127 once at load. Rounding to nearest even is an assumption of ours.
"""

from __future__ import annotations

import torch

from .contract import require, require_dtype, require_shape

INT8_MAX = 127.0


def quantise_rows(
    place: str, values: torch.Tensor, quantised: torch.Tensor, absmax: torch.Tensor
) -> None:
    """Write int8 rows and their absmax (fp32, one number a row). A row of zeros has absmax 0."""
    rows = values.numel() // max(values.shape[-1], 1)
    require_dtype(place, "y", quantised, torch.int8)
    require_shape(place, "y", quantised, tuple(values.shape))
    require_dtype(place, "max", absmax, torch.float32)
    require(absmax.numel() == rows, f"{place}(max=)", f"{rows} numbers", tuple(absmax.shape))
    exact = values.float()
    row_max = exact.abs().amax(dim=-1, keepdim=True)
    factor = torch.where(row_max > 0, INT8_MAX / row_max, torch.zeros_like(row_max))
    quantised.copy_(torch.round(exact * factor).clamp_(-INT8_MAX, INT8_MAX))
    absmax.copy_(row_max.reshape(absmax.shape))


def int8_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [M, K] @ weight [N, K]^T of int8 values, exact up to K = 2^39; float64 [M, N]."""
    return torch.matmul(x.double(), weight.double().t())
