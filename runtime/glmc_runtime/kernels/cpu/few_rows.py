"""Products of few rows with weights that are read where they lie, once: ours in C.

ATen hands oneDNN (bfloat16) or MKL (float32) the plain row-major weight, which for few rows is
repacked or badly streamed on every call. ``bench/cpu/cpu_gemv.py`` measures both: with AVX-512 and
its products of bfloat16, one thread of torch's reads the weight at 0.36 to 0.46 of the speed of a
plain sum, for one row and for four, and one of these at 0.9 or more for one and 0.67 to 0.9 for
four.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.cpu.processor import multiplies, multiplies_tiles

FEW_ROWS = 64
"""Beyond it a product is bound by arithmetic, and torch's is the faster one where the processor has
products of the dtype. With two threads and AVX-512 torch's takes 1.1 to 1.3 times as long as ours
in bfloat16 at 32 and 64 rows and 0.9 to 1.0 at 96, in float32 1.6 to 2.0 at 32, 0.8 to 1.5 at 64
and 0.7 to 1.2 at 96 (``python -m bench.cpu.cpu_gemv --rows 32,64,96 --threads 2``, three weights).
Not measured with AVX2, nor with many threads but for bfloat16 beside tiles."""
FEW_ROWS_BESIDE_TILES = 8
"""The same of bfloat16 where the processor multiplies tiles (AMX), as torch's products then do: on
16 cores of a Xeon both are level at 8 rows, and at 16 torch's takes half of the time of ours."""


def prefers_few_rows(rows: int, weight: torch.Tensor) -> bool:
    """Whether products of ``rows`` rows with ``weight`` [n, k] are for :func:`few_rows_product`."""
    tiles = weight.dtype == torch.bfloat16 and multiplies_tiles()
    most = FEW_ROWS_BESIDE_TILES if tiles else FEW_ROWS
    few = rows <= most or not multiplies(weight.dtype)
    return few and serves(weight)


def few_rows_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [rows, k], weight [n, k], bias [n], out [rows, n], all
    contiguous and of one dtype. Sums are float32 and rounded once, bias included; a row has the
    same bits beside any number of others and with any number of threads. Raises PlanError."""
    (rows, depth), size = x.shape, weight.shape[0]
    tensors = [tensor for tensor in (x, weight, out, bias) if tensor is not None]
    fits = weight.shape == (size, depth) and out.shape == (rows, size)
    if bias is not None:
        fits = fits and bias.shape == (size,)
    if not serves(*tensors) or not fits or not all(tensor.is_contiguous() for tensor in tensors):
        raise PlanError(
            "the kernel for few rows does not take these operands",
            expected="contiguous float32 or bfloat16 on a CPU, and a compiled kernel",
            found=", ".join(f"{str(tensor.dtype)[6:]} {list(tensor.shape)}" for tensor in tensors),
        )

    return NativeCall("few_rows_product", (x, weight, bias, out), (rows, size, depth))


FEW_TOKENS = 64
"""Of a step whose experts are one call. Its work space is made in the step and grows with the
tokens; longer steps take the plan's."""


def prefers_few_rows_experts(arguments: dict[str, Any]) -> bool:
    """Whether the experts of a call such as ``cpu.moe_ffn`` are for :func:`few_rows_experts`."""
    x, gate_up = arguments["x"], arguments["gate_up"]
    return x.shape[0] <= FEW_TOKENS and serves(x, gate_up)


def few_rows_experts(arguments: dict[str, Any], first: torch.Tensor | None) -> Thunk:
    """The operands of ``cpu.moe_ffn``, or with ``first`` (int64 [1]) those of
    ``cpu.local_moe_ffn``. Results are rounded to the dtype where eager code does, the weighted sum
    is float32 and in the order of a token's slots. An id that counts no expert of a model of one
    rank raises IndexError in the step."""
    x, ids, weights, gate_up, down, merged, results, out = (
        arguments[name]
        for name in ("x", "ids", "weights", "gate_up", "down", "merged", "results", "out")
    )
    experts, hidden, width = down.shape
    tensors = (x, gate_up, down, merged, results, out)
    (tokens, top_k), plain = ids.shape, (*tensors, ids, weights)
    fits = (
        out.shape == (tokens, hidden)
        and results.shape == (tokens * top_k, hidden)
        and weights.shape == ids.shape
        and weights.dtype == torch.float32
    )
    if not serves(*tensors) or not fits or not all(tensor.is_contiguous() for tensor in plain):
        raise PlanError(
            "the kernel for the experts of few tokens does not take these operands",
            expected="contiguous float32 or bfloat16 on a CPU, weights float32, and a compiled "
            "kernel",
            found=", ".join(f"{str(tensor.dtype)[6:]} {list(tensor.shape)}" for tensor in plain),
        )

    return NativeCall(
        "few_rows_experts",
        (x, ids, weights, gate_up, down, merged, results, out, first),
        (tokens, top_k, experts, hidden, width),
    )
