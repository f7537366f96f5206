"""The linear layer, plain or with SwiGLU after it, in one of three kernel variants.

A decode step is bound by the bytes of its weights: "gemv" and "skinny" read them once at the speed
of memory, with the bias or SwiGLU in the same launch. Many rows go to cuBLAS. The variant
and its blocks were measured per device (``tuned``); the defaults here stand in where nothing was.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from glmc_runtime.kernels.cuda.launch import interpreted, launch, multiprocessors, pdl_enabled
from glmc_runtime.kernels.cuda.linear import gemv
from glmc_runtime.kernels.cuda.linear import skinny_gemm as skinny
from glmc_runtime.kernels.cuda.linear.no_tf32 import exact
from glmc_runtime.kernels.cuda.tuned import Configuration
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import LINEAR


def _configuration(
    variant: str, block_n: int, block_k: int, split_k: int, warps: int, stages: int
) -> Configuration:
    return {
        "variant": variant,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "SPLIT_K": split_k,
        "num_warps": warps,
        "num_stages": stages,
    }


def _splits(tiles: int, k: int, wanted: int, shortest: int, most: int = 16) -> int:
    """The smallest power of two of parts of k, up to ``most``, that gives ``wanted`` programs, each
    at least ``shortest`` elements of k."""
    split = 1
    while tiles * split < wanted and split < most and k // (2 * split) >= shortest:
        split *= 2
    return split


def _most_parts(block_n: int, padded: int, warps: int) -> int:
    """How many parts of a tile one program can sum up at once: all are in registers, 128 of
    each thread."""
    return min(16, 128 * 32 * warps // (block_n * padded))


def default(
    dtype: torch.dtype, n: int, k: int, rows: int, is_gated: bool, processors: int
) -> Configuration:
    """What serves where nothing was measured. ``n`` counts rows of the weight.

    One row: 8 rows of the weight per program keep one wave of programs on the device for the
    usual sizes, so that all run at one speed and end together. More rows: 64 rows of the weight,
    split until there are at least two programs per multiprocessor.
    """
    narrow = dtype != torch.float32
    if rows <= (1 if narrow else gemv.MOST_ROWS):
        block_n, block_k = (16, 256) if is_gated or n > 65536 else (8, 512)
        block_k = min(block_k, power_of_two(k)) // (1 if narrow else 2)
        split = _splits(triton.cdiv(n, block_n), k, 3 * processors, 2 * block_k)
        return _configuration("gemv", block_n, max(block_k, 16), split, 4, 4)
    if narrow and rows <= skinny.MOST_ROWS:
        block_n = 128 if n > 16384 and rows > 16 else 64
        block_k = min(128, max(power_of_two(k), 16))
        most = _most_parts(block_n, max(16, power_of_two(rows)), 4)
        split = _splits(triton.cdiv(n, block_n), k, 2 * processors, 512, most)
        return _configuration("skinny", block_n, block_k, split, 4, 4 if rows <= 32 else 3)
    return {"variant": "cublas"}


def candidates(
    dtype: torch.dtype, n: int, k: int, rows: int, is_gated: bool, processors: int
) -> Iterator[Configuration]:
    """What to try for a weight [n, k], the default first; cuBLAS always."""
    seen = []
    for configuration in (
        default(dtype, n, k, rows, is_gated, processors),
        {"variant": "cublas"},
        *_gemv_candidates(dtype, n, rows, is_gated),
        *_skinny_candidates(dtype, n, k, rows, processors),
    ):
        if configuration not in seen:
            seen.append(configuration)
            yield configuration


def _gemv_candidates(
    dtype: torch.dtype, n: int, rows: int, is_gated: bool
) -> Iterator[Configuration]:
    if rows > (gemv.MOST_ROWS if dtype == torch.float32 else 2):  # 4 rows never won in bfloat16
        return
    # At least 64 elements of k per warp: x comes by asynchronous copies of no less than 4 bytes.
    for block_n, block_k, split, warps, stages in (
        (8, 512, 1, 4, 4),
        (8, 256, 1, 2, 4),
        (8, 512, 1, 4, 3),
        (8, 512, 1, 4, 6),
        (16, 256, 1, 4, 4),
        (16, 256, 1, 4, 6),
        (16, 512, 1, 8, 4),
        (16, 128, 1, 2, 6),
        (32, 128, 1, 2, 4),
        (4, 1024, 1, 4, 4),
        (16, 256, 2, 4, 4),
        (8, 512, 1, 4, 1),
    ):
        if (split == 1 or n <= 8192) and (block_n >= 8 or not is_gated):
            yield _configuration("gemv", block_n, block_k, split, warps, stages)


def _skinny_candidates(
    dtype: torch.dtype, n: int, k: int, rows: int, processors: int
) -> Iterator[Configuration]:
    if dtype == torch.float32 or rows > skinny.MOST_ROWS:
        return
    for block_n, block_k, waves, warps, stages in (
        (64, 128, 2, 4, 4),
        (64, 128, 1, 4, 5),
        (64, 256, 1, 4, 3),
        (64, 128, 3, 4, 3),
        (64, 64, 3, 4, 6),
        (128, 128, 1, 4, 4),
        (128, 64, 2, 4, 5),
        (128, 128, 1, 8, 4),
        (32, 256, 3, 4, 3),
        (32, 128, 4, 4, 4),
        (16, 256, 4, 2, 4),
    ):
        padded = max(16, power_of_two(rows))
        if 2 * block_k * (block_n + padded) * stages > 220_000 or (rows > 32 and block_n < 64):
            continue
        most = _most_parts(block_n, padded, warps)
        split = _splits(triton.cdiv(n, block_n), k, waves * processors, 2 * block_k, most)
        yield _configuration("skinny", block_n, block_k, split, warps, stages)
    # Narrow tiles need no split, and so no counter, but load x more often: for few rows only.
    for block_n, block_k, split, warps, stages in (
        (32, 256, 1, 4, 6),
        (32, 128, 1, 4, 8),
        (32, 256, 1, 2, 4),
        (32, 512, 1, 4, 4),
        (32, 256, 2, 4, 4),
        (16, 256, 1, 2, 5),
        (16, 512, 1, 4, 4),
        (16, 256, 2, 2, 4),
        (64, 256, 1, 4, 5),
        (64, 128, 2, 4, 6),
    ):
        padded = max(16, power_of_two(rows))
        if 2 * block_k * (block_n + padded) * stages <= 220_000 and rows <= 32:
            yield _configuration("skinny", block_n, block_k, split, warps, stages)


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
    return default(x.dtype, n, k, x.shape[0], is_gated, multiprocessors(x.device))


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
