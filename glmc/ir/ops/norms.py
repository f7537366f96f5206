"""RMSNorm, alone and with the residual addition before it."""

from __future__ import annotations

import torch
from torch import Tensor

from glmc.ir.ops.facts import Cut, OpFacts, Sharding, no_flops
from glmc.ir.ops.registry import Numerics, define


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * cast(x / sqrt(mean(x^2) + eps))``.

    x [..., width] of any float dtype, weight [width]; the normalisation is in float32 and is cast
    to the dtype of x before the weight multiplies it, as every GLM class writes it.
    """
    hidden = x.float()
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return weight * (hidden * torch.rsqrt(variance + eps)).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``total = residual + x``; returns ``(rms_norm(total), total)``, both like x."""
    total = residual + x
    return rms_norm(total, weight, eps), total


def norm_add_rms_norm(
    x: Tensor,
    norm_weight: Tensor,
    norm_eps: float,
    residual: Tensor,
    weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """``total = residual + rms_norm(x, norm_weight)``; returns ``(rms_norm(total), total)``."""
    return add_rms_norm(rms_norm(x, norm_weight, norm_eps), residual, weight, eps)


def _facts(tokens: tuple[str, ...], norms: int, *shardings: Sharding) -> OpFacts:
    """Of ``norms`` norms over the whole of each row, which can't be cut."""
    return OpFacts(
        tokens=tokens,
        summed=(("x", -1),) * norms,
        flops=no_flops,
        accessed={},
        shardings=shardings,
        strided=(),
    )


RMS_NORM = define(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    Numerics.BITWISE,
    rms_norm,
    lambda x, weight, eps: torch.empty_like(x, memory_format=torch.contiguous_format),
    # As of the heads of q and k, each a row of its own.
    _facts(("x",), 1, Sharding("heads", {"x": Cut(-2)}, (Cut(-2),))),
)
ADD_RMS_NORM = define(
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    Numerics.BITWISE,
    add_rms_norm,
    lambda x, residual, weight, eps: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    ),
    _facts(("x", "residual"), 1),
)
NORM_ADD_RMS_NORM = define(
    "norm_add_rms_norm(Tensor x, Tensor norm_weight, float norm_eps, Tensor residual, "
    "Tensor weight, float eps) -> (Tensor, Tensor)",
    Numerics.BITWISE,
    norm_add_rms_norm,
    lambda x, norm_weight, norm_eps, residual, weight, eps: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    ),
    _facts(("x", "residual"), 2),
)
