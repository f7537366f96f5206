"""Partial rotary position embedding, half-split (neox) or interleaved."""

from __future__ import annotations

import torch
from torch import Tensor

from glmc.ir.ops.facts import Cut, OpFacts, Sharding, no_flops
from glmc.ir.ops.norms import rms_norm
from glmc.ir.ops.registry import Numerics, define


def rope_table(
    positions: Tensor, inverse_frequencies: Tensor, scaling: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin, each [*positions, rotary_dim / 2], computed in float32 and cast to ``dtype``."""
    angles = positions.unsqueeze(-1).float() * inverse_frequencies.float()
    return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` entries of each head of x [..., heads, head_dim].

    cos and sin [..., rotary_dim / 2] have the leading shape of x without the heads. Neox pairs
    entry i with i + rotary_dim / 2, interleaved pairs 2i with 2i + 1; the rest passes.
    """
    rotary_dim = 2 * cos.shape[-1]
    rotated, passed = x[..., :rotary_dim], x[..., rotary_dim:]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
        result = pairs.flatten(-2)
    else:
        first, second = rotated.chunk(2, -1)
        result = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((result, passed), -1)


def rope(
    x: Tensor, positions: Tensor, inverse_frequencies: Tensor, interleaved: bool, scaling: float
) -> Tensor:
    """x [..., heads, head_dim], positions int64 [...], inverse_frequencies [rotary_dim / 2]."""
    cos, sin = rope_table(positions, inverse_frequencies, scaling, x.dtype)
    return apply_rope(x, cos, sin, interleaved)


_BY_HEAD = Sharding("heads", {"x": Cut(-2)}, (Cut(-2),))

ROPE = define(
    "rope(Tensor x, Tensor positions, Tensor inverse_frequencies, bool interleaved, "
    "float scaling) -> Tensor",
    Numerics.BITWISE,
    rope,
    lambda x, positions, inverse_frequencies, interleaved, scaling: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    OpFacts(
        tokens=("x", "positions"),
        summed=(),
        flops=no_flops,
        accessed={},
        shardings=(_BY_HEAD,),
        strided=("x",),
    ),
)


def norm_rope(
    x: Tensor,
    weight: Tensor,
    eps: float,
    positions: Tensor,
    inverse_frequencies: Tensor,
    interleaved: bool,
    scaling: float,
) -> Tensor:
    """RMSNorm over each head of x [..., heads, head_dim] by weight [head_dim], then rope."""
    normed = rms_norm(x, weight, eps)
    return rope(normed, positions, inverse_frequencies, interleaved, scaling)


NORM_ROPE = define(
    "norm_rope(Tensor x, Tensor weight, float eps, Tensor positions, Tensor inverse_frequencies, "
    "bool interleaved, float scaling) -> Tensor",
    Numerics.BITWISE,
    norm_rope,
    lambda x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
    OpFacts(
        tokens=("x", "positions"),
        summed=(("x", -1),),
        flops=no_flops,
        accessed={},
        shardings=(_BY_HEAD,),
        strided=("x",),
    ),
)
