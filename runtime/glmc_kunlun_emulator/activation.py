"""The emulated gated activation (record, section 2.2). Float32 inside, one rounding at the end."""

from __future__ import annotations

import torch

from glmc_runtime.kernels.vendor_functions.dense import SWIGLU_ROW_BYTES

from . import sums
from .contract import FLOATS, emulates, require, require_dtype, require_shape


@emulates("swiglu")
def swiglu(x: torch.Tensor, y: torch.Tensor) -> None:
    """y [.., I] = silu(x[.., :I]) * x[.., I:]; rows of y must be a multiple of 16 bytes."""
    place = "swiglu"
    width = x.shape[-1] // 2
    require_dtype(place, "x", x, *FLOATS)
    require(x.shape[-1] % 2 == 0, f"{place}(x=)", "an even last dimension", tuple(x.shape))
    require_shape(place, "y", y, (*x.shape[:-1], width))
    require_dtype(place, "y", y, x.dtype)
    row_bytes = width * x.element_size()
    require(
        row_bytes % SWIGLU_ROW_BYTES == 0,
        f"{place}(y=)",
        f"a last dimension whose bytes are a multiple of {SWIGLU_ROW_BYTES}",
        f"{width} x {x.dtype} = {row_bytes} bytes",
        "pad the intermediate size",
    )
    y.copy_(sums.silu_times(x[..., :width], x[..., width:]))
