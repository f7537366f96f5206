"""The linear layer: a kernel of ours for few rows, ``mm`` for many."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, optional, require_dtype, require_shape
from glmc_runtime.kernels.cpu.few_rows import few_rows_product, prefers_few_rows
from glmc_runtime.kernels.shared_schemas import LINEAR


@register(
    "cpu.linear",
    LINEAR,
)
def linear(arguments: dict[str, Any]) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [..., k], weight [n, k], bias [n] or None, out [..., n].

    All of one dtype.
    """
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    bias = optional(arguments, "bias")
    require_dtype("x", x)
    require_dtype("weight", weight, x.dtype)
    require_dtype("out", out, x.dtype)
    require_shape("weight", weight, (out.shape[-1], x.shape[-1]))
    require_shape("out", out, (*x.shape[:-1], weight.shape[0]))
    x, out = flat(x), flat(out)
    plain = x.is_contiguous() and (bias is None or bias.is_contiguous())
    if plain and prefers_few_rows(x.shape[0], weight):
        return few_rows_product(x, weight, bias, out)
    if bias is None:
        return partial(torch.mm, x, weight.t(), out=out)
    return partial(torch.addmm, bias, x, weight.t(), out=out)
