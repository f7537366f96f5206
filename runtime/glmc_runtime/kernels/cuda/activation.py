"""SwiGLU, from one merged tensor or from two."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    flat,
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import SWIGLU

_BLOCK = 1024


@triton.jit
def gated(gate, up, dtype: tl.constexpr):
    """``silu(gate) * up`` of float32 values in ``dtype``, rounded where eager code rounds: gate,
    up, silu and the product."""
    gate = gate.to(dtype).to(tl.float32)
    up = up.to(dtype).to(tl.float32)
    activated = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    return (activated * up).to(dtype)


@triton.jit
def swiglu_kernel(
    gate, up, out, WIDTH: tl.constexpr, PITCH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """Rows of gate and up start every PITCH elements, rows of out every WIDTH."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    left = tl.load(gate + row * PITCH + column, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(up + row * PITCH + column, mask=inside, other=0.0).to(tl.float32)
    result = gated(left, right, out.dtype.element_ty)
    tl.store(out + row * WIDTH + column, result, mask=inside)


def multiply(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> Thunk:
    """``out = silu(gate) * up``: gate and up [rows, width] of one row stride, out contiguous."""
    rows, width = out.shape
    return partial(
        launch,
        swiglu_kernel,
        (rows, triton.cdiv(width, _BLOCK)),
        gate,
        up,
        out,
        WIDTH=width,
        PITCH=gate.stride(0),
        BLOCK=_BLOCK,
        num_warps=4,
        pdl=pdl_enabled(out.device),
    )


@register(
    "cuda.swiglu",
    SWIGLU,
)
def swiglu(arguments: dict[str, Any]) -> Thunk:
    """x [..., 2 * width], the gate first; out [..., width]."""
    x, out = arguments["x"], arguments["out"]
    width = out.shape[-1]
    require_dtype("x", x)
    require_dtype("out", out, x.dtype)
    require_shape("x", x, (*out.shape[:-1], 2 * width))
    require_shape("out", out, tuple(out.shape))
    require_one_device(x, out)
    rows = flat(x)
    return multiply(rows[:, :width], rows[:, width:], flat(out))


@register(
    "cuda.silu_mul",
    schema(
        tensor("gate", "..."),
        tensor("up", "...", like="gate"),
        written("out", "...", like="gate"),
        aliases=(("out", "gate"), ("out", "up")),
    ),
)
def silu_mul(arguments: dict[str, Any]) -> Thunk:
    """gate, up and out of one shape; out may be gate or up."""
    gate, up, out = arguments["gate"], arguments["up"], arguments["out"]
    require_dtype("gate", gate)
    require_shape("gate", gate, tuple(gate.shape))
    require_like("up", up, gate)
    require_like("out", out, gate)
    require_one_device(gate, up, out)
    return multiply(flat(gate), flat(up), flat(out))
