"""The functions of ``native/decode.c``: what a decode step computes, over tensors where they lie.

Torch's own kernels serve dtypes that the library has none for, and everything where nothing can be
compiled; ``bench/cpu/cpu_gemv.py`` and ``bench/cpu/decode.py`` show what that costs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from glmc_runtime.kernels.cpu.compiled import library

KINDS = {torch.float32: 0, torch.bfloat16: 1}
_WITHOUT = (
    "a step on this processor is left to torch's own kernels, which are slower for few tokens"
)
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "few_rows_product": (*[_POINTER] * 4, *[_LONG] * 3, *[_INT] * 2),
    "few_rows_experts": (*[_POINTER] * 8, *[_LONG] * 5, _POINTER, *[_INT] * 2),
    "rows_norm": (*[_POINTER] * 5, *[_LONG] * 2, _FLOAT, *[_INT] * 2),
    "rows_add": (*[_POINTER] * 3, _LONG, *[_INT] * 2),
    "rows_gated": (*[_POINTER] * 3, *[_LONG] * 3, *[_INT] * 2),
    "rows_router": (*[_POINTER] * 7, *[_LONG] * 6, _FLOAT, _INT, *[_FLOAT] * 2, *[_INT] * 2),
    "rows_heads": (*[_POINTER] * 9, *[_LONG] * 11, _INT, _FLOAT, *[_INT] * 2),
    "decode_attention": (*[_POINTER] * 6, *[_LONG] * 10, _FLOAT, *[_INT] * 2),
}
_NO_MEMORY, _BEYOND = 1, 2


@cache
def _library() -> ctypes.CDLL | None:
    found = library("decode", _WITHOUT)
    if found is not None:
        for name, signature in _SIGNATURES.items():
            function = getattr(found, name)
            function.argtypes, function.restype = signature, ctypes.c_int
    return found


def function(name: str, *tensors: torch.Tensor | None) -> Callable[..., None] | None:
    """A function of the library for ``tensors`` (None left out) of one dtype, or None where torch's
    kernels serve. Its last arguments are the kind of the numbers and how many threads there are.

    What it returns raises MemoryError, and IndexError for an index beyond what it counts.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    fits = dtype in KINDS and all(
        tensor.dtype == dtype and tensor.device.type == "cpu" for tensor in given
    )
    if not fits or (found := _library()) is None:
        return None
    call, kind = getattr(found, name), KINDS[dtype]

    def run(*arguments: Any) -> None:
        failed = call(*arguments, kind, torch.get_num_threads())
        if failed == _NO_MEMORY:
            raise MemoryError(f"no memory for the work space of {name}")
        if failed == _BEYOND:
            raise IndexError(f"an index of {name} is beyond what it counts")

    return run
