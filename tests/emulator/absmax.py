"""Rows in the vendor's int8 convention, made by the formula: q = round(x * 127 / absmax)."""

from __future__ import annotations

import torch


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values and the absmax of each row, float32 [..., 1]."""
    absmax = x.float().abs().amax(dim=-1, keepdim=True)
    return torch.round(x.float() * 127 / absmax).to(torch.int8), absmax
