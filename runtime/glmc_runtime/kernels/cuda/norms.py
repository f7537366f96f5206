"""RMSNorm alone, after an addition, and between two norms around an addition.

One program per row, the whole row in registers: a row is read once and, since all of it is read
before any of it is written, an output may share memory with an input. Everything is rounded where
eager code rounds: the sum of the residual, the normalised row and its product with the weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    flat,
    power_of_two,
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.schema import number, schema, tensor, written


@triton.jit
def normalized(row, weight, eps, WIDTH: tl.constexpr):
    """float32 ``weight * cast(row * rsqrt(mean(row^2) + eps))``, the product not yet rounded: row
    float32 with zeros after WIDTH, weight in the dtype to round to."""
    variance = tl.sum(row * row, axis=0) / WIDTH
    hidden = (row * tl.rsqrt(variance + eps)).to(weight.dtype).to(tl.float32)
    return hidden * weight.to(tl.float32)


@triton.jit
def rms_norm_kernel(
    x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    scale = tl.load(weight + column, mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
    result = normalized(row, scale, eps, WIDTH)
    tl.store(out + start + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_rms_norm_kernel(
    x,
    residual,
    norm_weight,
    weight,
    out,
    total,
    norm_eps,
    eps,
    NORM_FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    dtype = out.dtype.element_ty
    scale = tl.load(weight + column, mask=inside, other=0.0)
    if NORM_FIRST:
        norm_scale = tl.load(norm_weight + column, mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    added = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
    row = tl.load(residual + start + column, mask=inside, other=0.0).to(tl.float32)
    if NORM_FIRST:
        added = normalized(added, norm_scale, norm_eps, WIDTH).to(dtype).to(tl.float32)
    row = (row + added).to(dtype).to(tl.float32)
    result = normalized(row, scale, eps, WIDTH)
    tl.store(total + start + column, row.to(dtype), mask=inside)
    tl.store(out + start + column, result.to(dtype), mask=inside)


def row_meta(x: torch.Tensor) -> dict[str, Any]:
    """Few rows: as many warps as have eight elements (16 bytes) per thread, for the latency."""
    rows, width = x.shape
    block = power_of_two(width)
    most = 16 if rows <= 256 else 8
    return {
        "WIDTH": width,
        "BLOCK": block,
        "num_warps": min(max(block // 256, 1), most),
        "pdl": pdl_enabled(x.device),
    }


@register(
    "cuda.rms_norm",
    schema(
        tensor("x", "... width"),
        tensor("weight", "width", like="x"),
        number("eps", 0, 1),
        written("out", "... width", like="x"),
        aliases=(("out", "x"),),
    ),
)
def rms_norm(arguments: dict[str, Any]) -> Thunk:
    """x and out [..., width], weight [width], eps; out may be x."""
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    require_dtype("x", x)
    require_shape("x", x, tuple(x.shape))
    require_like("out", out, x)
    require_shape("weight", weight, (x.shape[-1],))
    require_dtype("weight", weight, x.dtype)
    require_one_device(x, weight, out)
    x, out = flat(x), flat(out)
    return partial(
        launch,
        rms_norm_kernel,
        (x.shape[0],),
        x,
        weight,
        out,
        float(arguments["eps"]),
        **row_meta(x),
    )


_ADD_NORM = (
    tensor("x", "... width"),
    tensor("residual", "... width", like="x"),
    tensor("weight", "width", like="x"),
    number("eps", 0, 1),
    written("out", "... width", like="x"),
    written("total", "... width", like="x"),
)


def _add_rms_norm(arguments: dict[str, Any], norm_weight: torch.Tensor | None) -> Thunk:
    x, residual, weight, out, total = (
        arguments[name] for name in ("x", "residual", "weight", "out", "total")
    )
    require_dtype("x", x)
    require_shape("x", x, tuple(x.shape))
    for name in ("residual", "out", "total"):
        require_like(name, arguments[name], x)
    for name, scale in (("weight", weight), ("norm_weight", norm_weight)):
        if scale is not None:
            require_shape(name, scale, (x.shape[-1],))
            require_dtype(name, scale, x.dtype)
    require_one_device(x, residual, weight, norm_weight, out, total)
    x = flat(x)
    return partial(
        launch,
        add_rms_norm_kernel,
        (x.shape[0],),
        x,
        flat(residual),
        weight if norm_weight is None else norm_weight,
        weight,
        flat(out),
        flat(total),
        float(arguments["eps"] if norm_weight is None else arguments["norm_eps"]),
        float(arguments["eps"]),
        NORM_FIRST=norm_weight is not None,
        **row_meta(x),
    )


@register(
    "cuda.add_rms_norm",
    schema(*_ADD_NORM),
)
def add_rms_norm(arguments: dict[str, Any]) -> Thunk:
    """``total = residual + x; out = rms_norm(total)``: all [..., width], weight [width]."""
    return _add_rms_norm(arguments, None)


@register(
    "cuda.norm_add_rms_norm",
    schema(*_ADD_NORM, tensor("norm_weight", "width", like="x"), number("norm_eps", 0, 1)),
)
def norm_add_rms_norm(arguments: dict[str, Any]) -> Thunk:
    """``total = residual + rms_norm(x, norm_weight, norm_eps)`` and ``out = rms_norm(total, weight,
    eps)``: where one sandwich of norms ends and the next begins."""
    return _add_rms_norm(arguments, arguments["norm_weight"])
