"""The linear layer: packed for few rows, ``mm`` for many, and a kernel of ours where the processor
has no products of the dtype."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, in_order, optional, require_dtype, require_shape
from glmc_runtime.kernels.cpu.narrow import narrow_product, prefers_narrow
from glmc_runtime.kernels.cpu.packed import accumulate, as_image, pack, prefers_packed
from glmc_runtime.kernels.shared_schemas import LINEAR


@register(
    "cpu.linear",
    LINEAR,
)
def linear(arguments: dict[str, Any]) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [..., k], weight [n, k], bias [n] or None, out [..., n].

    Where :func:`prefers_packed` the weight is repacked here, once. All of one dtype.
    """
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    bias = optional(arguments, "bias")
    require_dtype("x", x)
    require_dtype("weight", weight, x.dtype)
    require_dtype("out", out, x.dtype)
    require_shape("weight", weight, (out.shape[-1], x.shape[-1]))
    require_shape("out", out, (*x.shape[:-1], weight.shape[0]))
    x, out = flat(x), flat(out)
    if prefers_packed(x.shape[0], weight):
        start = out.zero_ if bias is None else partial(out.copy_, bias.expand_as(out))
        return in_order(start, accumulate(as_image(x), pack(weight), as_image(out)))
    if prefers_narrow(weight):
        return narrow_product(x, weight, bias, out)
    if bias is None:
        return partial(torch.mm, x, weight.t(), out=out)
    return partial(torch.addmm, bias, x, weight.t(), out=out)
