"""The linear layer, plain or with SwiGLU after it, in one of three kernel variants.

A decode step is bound by the bytes of its weights: "gemv" and "skinny" read them once at the speed
of memory, with the bias or SwiGLU in the same launch. Many rows go to cuBLAS. The variant
and its blocks were measured per device (``tuned``); ``configurations`` stands in where nothing was.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    flat,
    in_order,
    optional,
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import tuned, workspace
from glmc_runtime.kernels.cuda.activation import multiply
from glmc_runtime.kernels.cuda.launch import interpreted, launch, pdl_enabled
from glmc_runtime.kernels.cuda.linear import gemv
from glmc_runtime.kernels.cuda.linear import skinny_gemm as skinny
from glmc_runtime.kernels.cuda.linear.configurations import card_of, default
from glmc_runtime.kernels.cuda.linear.no_tf32 import exact
from glmc_runtime.kernels.cuda.tuned import Configuration
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import LINEAR


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    configuration: Configuration,
    is_gated: bool,
) -> Thunk:
    """One launch of the kernel that ``configuration`` names: x [rows, k], weight [n, k], out
    [rows, n], or [rows, n / 2] when gated.

    While the kernel before still runs, PREFETCH elements (2048 bytes if not given) of each row of
    the weight are fetched into the second-level cache.
    """
    rows, k = x.shape
    module = {"gemv": gemv, "skinny": skinny}.get(configuration["variant"])
    if module is None or rows > module.MOST_ROWS:
        raise PlanError(f"no variant '{configuration['variant']}' to multiply {rows} rows")
    block_n, block_k, split_k = (configuration[name] for name in ("BLOCK_N", "BLOCK_K", "SPLIT_K"))
    tiles = triton.cdiv(weight.shape[0], block_n)
    padded = rows if module is gemv else max(16, power_of_two(rows))
    line = 128 // weight.element_size()
    # The last part is the shortest; a power of two of whole lines must fit into it.
    shortest = k - (split_k - 1) * triton.cdiv(k, block_k * split_k) * block_k
    lines = max(min(configuration.get("PREFETCH", 16 * line), shortest), 0) // line
    ahead = (1 << lines.bit_length() - 1) * line if lines else 0
    more: dict[str, Any] = {} if module is gemv else {"rows": rows, "WIDEN": interpreted()}
    # Without a split these are never touched.
    partials = workspace.floats(x.device, tiles * split_k * block_n * padded if split_k > 1 else 1)
    counters = workspace.arrival_counters(x.device, tiles if split_k > 1 else 1)
    return partial(
        launch,
        module.gemv_kernel if module is gemv else module.skinny_kernel,
        (tiles, split_k),
        x,
        weight,
        weight if bias is None else bias,
        out,
        partials,
        counters,
        N=out.shape[1],
        K=k,
        ROWS=padded,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        SPLIT_K=split_k,
        STAGES=configuration["num_stages"],
        PREFETCH=ahead,
        LINE=line,
        GATED=is_gated,
        HAS_BIAS=bias is not None,
        num_warps=configuration["num_warps"],
        num_stages=configuration["num_stages"],
        pdl=pdl_enabled(x.device),
        **more,
    )


def _configuration_of(
    kernel: str, arguments: dict[str, Any], x: torch.Tensor, weight: torch.Tensor
) -> Configuration:
    override: Configuration | None = arguments.get("configuration")
    if override is not None:
        return override
    n, k = weight.shape
    measured = tuned.configuration(kernel, x.dtype, f"{n}x{k}", x.shape[0])
    if measured is not None:
        return measured
    is_gated = kernel == "linear_swiglu"
    return default(x.dtype, n, k, x.shape[0], is_gated, card_of(x.device))


def _checked(arguments: dict[str, Any], outputs: int) -> tuple[torch.Tensor, ...]:
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    require_dtype("x", x)
    require_dtype("weight", weight, x.dtype)
    require_dtype("out", out, x.dtype)
    require_shape("x", x, tuple(x.shape))
    require_shape("weight", weight, (weight.shape[0], x.shape[-1]))
    require_shape("out", out, (*x.shape[:-1], outputs))
    require_one_device(x, weight, out)
    return flat(x), weight, flat(out)


def _library_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> Thunk:
    """By cuBLAS."""
    if bias is None:
        thunk = partial(torch.mm, x, weight.t(), out=out)
    else:
        thunk = partial(torch.addmm, bias, x, weight.t(), out=out)
    return exact(thunk) if x.dtype == torch.float32 else thunk


@register(
    "cuda.linear",
    LINEAR,
)
def linear(arguments: dict[str, Any]) -> Thunk:
    """``out = x @ weight.T + bias``: x [..., k], weight [n, k], bias [n] or None, out [..., n]."""
    x, weight, out = _checked(arguments, arguments["weight"].shape[0])
    bias = optional(arguments, "bias")
    if bias is not None:
        require_shape("bias", bias, (weight.shape[0],))
        require_dtype("bias", bias, x.dtype)
        require_one_device(x, bias)
    configuration = _configuration_of("linear", arguments, x, weight)
    if configuration["variant"] != "cublas":
        return product(x, weight, bias, out, configuration, is_gated=False)
    return _library_product(x, weight, bias, out)


@register(
    "cuda.linear_swiglu",
    schema(
        tensor("x", "... k"),
        tensor("weight", "2*width k", like="x"),
        written("merged", "... 2*width", like="x"),
        written("out", "... width", like="x"),
    ),
)
def linear_swiglu(arguments: dict[str, Any]) -> Thunk:
    """``out = silu(gate) * up`` with ``[gate, up] = x @ weight.T``: x [..., k], weight
    [2 * width, k], gates first, out [..., width]; merged [..., 2 * width] is scratch."""
    width = arguments["out"].shape[-1]
    x, weight, out = _checked(arguments, width)
    require_shape("weight", weight, (2 * width, x.shape[1]))
    configuration = _configuration_of("linear_swiglu", arguments, x, weight)
    if configuration["variant"] != "cublas":
        return product(x, weight, None, out, configuration, is_gated=True)
    merged = arguments["merged"]
    require_dtype("merged", merged, x.dtype)
    require_shape("merged", merged, (*arguments["out"].shape[:-1], 2 * width))
    require_one_device(x, merged)
    merged = flat(merged)
    return in_order(
        _library_product(x, weight, None, merged),
        multiply(merged[:, :width], merged[:, width:], out),
    )
