"""Emulated gated activations (record, section 2.2). Float32 inside, one rounding at the end."""

from __future__ import annotations

import torch

from .contract import FLOATS, refuse_unmodelled, require, require_dtype, require_shape, vendor_op

ALIGNMENT_BYTES = 16


def _gate(place: str, x: torch.Tensor, y: torch.Tensor, first_half_is_gate: bool) -> None:
    width = x.shape[-1] // 2
    require_dtype(place, "x", x, *FLOATS)
    require(x.shape[-1] % 2 == 0, f"{place}(x=)", "an even last dimension", tuple(x.shape))
    require_shape(place, "y", y, (*x.shape[:-1], width))
    require_dtype(place, "y", y, x.dtype)
    row_bytes = width * x.element_size()
    require(
        row_bytes % ALIGNMENT_BYTES == 0,
        f"{place}(y=)",
        f"a last dimension whose bytes are a multiple of {ALIGNMENT_BYTES}",
        f"{width} x {x.dtype} = {row_bytes} bytes",
        "pad the intermediate size",
    )
    first, second = x[..., :width].float(), x[..., width:].float()
    gate, up = (first, second) if first_half_is_gate else (second, first)
    y.copy_(torch.nn.functional.silu(gate) * up)


@vendor_op("swiglu", outputs=("y",))
def swiglu(x: torch.Tensor, y: torch.Tensor) -> None:
    """y [.., I] = silu(x[.., :I]) * x[.., I:]; rows of y must be a multiple of 16 bytes."""
    _gate("swiglu", x, y, True)


@vendor_op("silu_and_mul", outputs=("out",))
def silu_and_mul(
    x: torch.Tensor, axis: int = -1, turn: bool = True, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Like `swiglu`; `turn` says which half passes through SiLU (True = first).

    Returns `out`, made here when it is not given (assumption).
    """
    refuse_unmodelled("silu_and_mul", axis=(axis, -1))
    result = x.new_empty((*x.shape[:-1], x.shape[-1] // 2)) if out is None else out
    _gate("silu_and_mul", x, result, turn)
    return result


@vendor_op("quick_gelu", outputs=("out",))
def quick_gelu(x: torch.Tensor, out: torch.Tensor) -> None:
    """out = x * sigmoid(1.702 x), the usual quick GELU of vision towers."""
    require_dtype("quick_gelu", "x", x, *FLOATS)
    require_shape("quick_gelu", "out", out, tuple(x.shape))
    values = x.float()
    out.copy_(values * torch.sigmoid(1.702 * values))
