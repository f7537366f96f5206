"""The emulated gated activation (record, section 2.2). Float32 inside, one rounding at the end."""

from __future__ import annotations

import torch

from .contract import FLOATS, require, require_dtype, require_shape, vendor_op

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
