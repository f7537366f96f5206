"""RMSNorm in a fixed order of sums; the cast is where GLM has it, before the weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, in_order, require_dtype, require_shape
from glmc_runtime.kernels.ordered.native import norm
from glmc_runtime.kernels.schema import number, schema, tensor, written

_NORM = (tensor("weight", "width", like="x"), number("eps", 0, 1))


@register(
    "ordered.rms_norm",
    schema(tensor("x", "rows width"), written("out", "rows width", like="x"), *_NORM),
)
def rms_norm(arguments: dict[str, Any]) -> Thunk:
    """x and out [..., width], weight [width], eps."""
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    for name, like in (("weight", weight), ("out", out)):
        require_dtype(name, like, x.dtype)
    require_shape("weight", weight, (x.shape[-1],))
    require_shape("out", out, tuple(x.shape))
    return norm(flat(x), weight, float(arguments["eps"]), flat(out))


@register(
    "ordered.add_rms_norm",
    schema(
        tensor("x", "rows width"),
        tensor("residual", "rows width", like="x"),
        written("out", "rows width", like="x"),
        written("total", "rows width", like="x"),
        *_NORM,
        aliases=(("total", "x"), ("total", "residual")),
    ),
)
def add_rms_norm(arguments: dict[str, Any]) -> Thunk:
    """``total = residual + x; out = rms_norm(total)``."""
    x, residual, total = arguments["x"], arguments["residual"], arguments["total"]
    require_shape("residual", residual, tuple(x.shape))
    require_shape("total", total, tuple(x.shape))
    add = partial(torch.add, residual, x, out=total)
    return in_order(add, rms_norm({**arguments, "x": total}))
