"""SwiGLU, from one merged tensor or from two."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, in_order, require_shape
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import SWIGLU


def gated(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> Thunk:
    """``out = silu(gate) * up``; silu is rounded to the dtype first, as in eager code. Rows
    [rows, width], or all three of one contiguous shape."""
    rows, width = out.shape if out.dim() == 2 else (1, out.numel())
    stride = gate.stride(0) if gate.dim() == 2 else width
    evenly = gate.stride() == up.stride() and out.is_contiguous()
    fits = evenly and (gate.is_contiguous() or gate.stride()[1:] == (1,))
    if fits and serves(gate, up, out):
        return NativeCall("rows_gated", (gate, up, out), (rows, width, stride))
    return in_order(partial(torch.ops.aten.silu.out, gate, out=out), partial(out.mul_, up))


@register(
    "cpu.swiglu",
    SWIGLU,
)
def swiglu(arguments: dict[str, Any]) -> Thunk:
    """x [..., 2 * width], the gate first; out [..., width]."""
    x, out = arguments["x"], arguments["out"]
    width = x.shape[-1] // 2
    require_shape("x", x, (*out.shape[:-1], 2 * out.shape[-1]))
    rows = flat(x)
    return gated(rows[:, :width], rows[:, width:], flat(out))


@register(
    "cpu.silu_mul",
    schema(
        tensor("gate", "..."), tensor("up", "...", like="gate"), written("out", "...", like="gate")
    ),
)
def silu_mul(arguments: dict[str, Any]) -> Thunk:
    """gate, up and out of one shape; out must not be up."""
    gate, up, out = arguments["gate"], arguments["up"], arguments["out"]
    require_shape("up", up, tuple(gate.shape))
    require_shape("out", out, tuple(gate.shape))
    return gated(gate, up, out)
