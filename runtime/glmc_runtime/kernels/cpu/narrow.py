"""Products of bfloat16 on processors that have none: a kernel of ours in C.

ATen reads a weight at half the memory's speed there, and with more rows than one it reads it again
for each. ``bench/cpu/cpu_gemv.py`` measures both.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu.compiled import library
from glmc_runtime.kernels.cpu.wide_attention import multiplies

_WITHOUT = (
    "products of bfloat16 are left to torch, which on this processor is slower, by a third for one "
    "token a step and several times for more"
)
_TOGETHER = 16  # elements of k that the kernel takes at a time


@cache
def _product() -> Any | None:
    function = library("bfloat16_product", _WITHOUT)
    if function is None:
        return None
    product = function.bfloat16_product
    product.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 3 + [ctypes.c_int]
    product.restype = ctypes.c_int
    return product


def prefers_narrow(weight: torch.Tensor) -> bool:
    """Whether products with ``weight`` [n, k] are for :func:`narrow_product`."""
    fits = weight.dtype == torch.bfloat16 and weight.shape[1] % _TOGETHER == 0
    return fits and not multiplies(weight.dtype) and _product() is not None


def narrow_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [rows, k], weight [n, k], bias [n], out [rows, n], all
    contiguous bfloat16. Sums are float32 and rounded once, bias included; a row has the same bits
    beside any number of others and with any number of threads."""
    product = _product()
    tensors = [x, weight, out] if bias is None else [x, weight, out, bias]
    (rows, depth), size = x.shape, weight.shape[0]
    fits = weight.shape == (size, depth) and out.shape == (rows, size) and depth % _TOGETHER == 0
    if bias is not None:
        fits = fits and bias.shape == (size,)
    plain = all(
        tensor.dtype == torch.bfloat16 and tensor.is_contiguous() and tensor.device.type == "cpu"
        for tensor in tensors
    )
    if product is None or not fits or not plain:
        raise PlanError(
            "the kernel for narrow products does not take these operands",
            expected=f"contiguous bfloat16, k a multiple of {_TOGETHER}, a compiled kernel",
            found=", ".join(f"{str(tensor.dtype)[6:]} {list(tensor.shape)}" for tensor in tensors),
        )

    def run() -> None:
        failed = product(
            x.data_ptr(),  # asked for each time: a storage may be given other memory
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            rows,
            size,
            depth,
            torch.get_num_threads(),
        )
        if failed:
            raise RuntimeError(f"no memory for {rows} rows of {depth} elements in float32")

    return run
