"""The vendor's int8 convention, shared by several families: absmax, not scale.

real = q * absmax / 127 (record, section 2.0). Checkpoint scales are multiplied by 127 once at load.
"""

from __future__ import annotations

import torch

INT8_MAX = 127.0


def int8_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [M, K] @ weight [N, K]^T of int8 values, exact up to K = 2^39; float64 [M, N]."""
    return torch.matmul(x.double(), weight.double().t())
