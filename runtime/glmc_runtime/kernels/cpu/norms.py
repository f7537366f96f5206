"""RMSNorm in float32 with the cast where GLM has it: before the weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.schema import number, schema, tensor, written

NORM = (
    tensor("weight", "width", like="x"),
    number("eps", 0, 1),
    written("hidden", "rows width", "float32"),
    written("square", "rows width", "float32"),
    written("variance", "rows 1", "float32"),
)


def normalize(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    hidden: torch.Tensor,
    square: torch.Tensor,
    variance: torch.Tensor,
) -> Thunk:
    """``out = weight * cast(x / sqrt(mean(x^2) + eps))`` over the last dimension.

    x and out [..., width] (x may be strided), weight [width]; scratch in float32: hidden and
    square like x, variance [..., 1]. The operations and their order are those of the eager code.
    """
    steps: list[Thunk] = [
        partial(hidden.copy_, x),
        partial(torch.mul, hidden, hidden, out=square),
        partial(torch.mean, square, -1, True, out=variance),
        partial(variance.add_, eps),
        partial(torch.rsqrt, variance, out=variance),
    ]
    if out.dtype == torch.float32:
        steps.append(partial(torch.mul, hidden, variance, out=out))
    else:
        steps += [partial(hidden.mul_, variance), partial(out.copy_, hidden)]
    steps.append(partial(out.mul_, weight))
    return in_order(*steps)


def rows_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    total: torch.Tensor | None,
    out: torch.Tensor,
    eps: float,
) -> Thunk | None:
    """The same of contiguous rows in one call of ours, of ``total = residual + x`` where there is a
    residual; None where torch's kernels serve."""
    tensors = [tensor for tensor in (x, residual, weight, total, out) if tensor is not None]
    if not serves(*tensors) or not all(tensor.is_contiguous() for tensor in tensors):
        return None
    width = x.shape[-1]
    sizes = (x.numel() // width, width)
    return NativeCall("rows_norm", (x, residual, weight, total, out), sizes, (eps,))


def _scratch(arguments: dict[str, Any], shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    rows = 1
    for size in shape[:-1]:
        rows *= size
    for name, size in (("hidden", shape[-1]), ("square", shape[-1]), ("variance", 1)):
        require_dtype(name, arguments[name], torch.float32)
        require_shape(name, arguments[name], (rows, size))
    return arguments["hidden"], arguments["square"], arguments["variance"]


@register(
    "cpu.rms_norm",
    schema(tensor("x", "rows width"), written("out", "rows width", like="x"), *NORM),
)
def rms_norm(arguments: dict[str, Any]) -> Thunk:
    """x and out [..., width], weight [width], eps; float32 scratch hidden and square
    [rows, width] and variance [rows, 1]."""
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    require_dtype("x", x)
    require_shape("weight", weight, (x.shape[-1],))
    require_shape("out", out, tuple(x.shape))
    hidden, square, variance = _scratch(arguments, tuple(x.shape))
    compiled = rows_norm(x, None, weight, None, out, float(arguments["eps"]))
    if compiled is not None:
        return compiled
    return normalize(flat(x), weight, float(arguments["eps"]), flat(out), hidden, square, variance)


@register(
    "cpu.add_rms_norm",
    schema(
        tensor("x", "rows width"),
        tensor("residual", "rows width", like="x"),
        written("out", "rows width", like="x"),
        written("total", "rows width", like="x"),
        *NORM,
        aliases=(("total", "x"), ("total", "residual")),
    ),
)
def add_rms_norm(arguments: dict[str, Any]) -> Thunk:
    """``total = residual + x; out = rms_norm(total)``; scratch as for ``cpu.rms_norm``."""
    x, residual, total = arguments["x"], arguments["residual"], arguments["total"]
    require_shape("residual", residual, tuple(x.shape))
    require_shape("total", total, tuple(x.shape))
    _scratch(arguments, tuple(x.shape))
    weight, out, eps = arguments["weight"], arguments["out"], float(arguments["eps"])
    require_shape("weight", weight, (x.shape[-1],))
    require_shape("out", out, tuple(x.shape))
    compiled = rows_norm(x, residual, weight, total, out, eps)
    if compiled is not None:
        return compiled
    return in_order(partial(torch.add, residual, x, out=total), rms_norm({**arguments, "x": total}))
