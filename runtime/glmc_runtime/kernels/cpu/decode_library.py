"""The functions of ``native/decode.c``: what a decode step computes, over tensors where they lie.

Torch's own kernels serve dtypes that the library has none for, and everything where nothing can be
compiled; ``bench/cpu/cpu_gemv.py`` and ``bench/cpu/decode.py`` show what that costs. Thunks call
the functions by :mod:`glmc_runtime.kernels.cpu.native_call`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

import torch

from glmc_runtime.kernels.cpu.compiled import library

KINDS = {torch.float32: 0, torch.bfloat16: 1}
_WITHOUT = (
    "a step on this processor is left to torch's own kernels, which are slower for few tokens"
)


class Counts(NamedTuple):
    """How many arguments of each type a function has, its kind and the threads left out."""

    pointers: int
    longs: int
    floats: int = 0


FUNCTIONS = {
    "few_rows_product": Counts(4, 3),
    "few_rows_experts": Counts(9, 5),
    "rows_norm": Counts(5, 2, 1),
    "rows_add": Counts(3, 1),
    "rows_gated": Counts(3, 3),
    "rows_router": Counts(7, 7, 3),
    "rows_heads": Counts(9, 12, 1),
    "decode_attention": Counts(6, 10, 1),
}
"""In the order in which ``native/calls.c`` numbers them."""


class Record(ctypes.Structure):
    """``Call`` of ``native/calls.c``."""

    _fields_ = (
        ("pointers", ctypes.c_void_p * 9),
        ("longs", ctypes.c_long * 12),
        ("floats", ctypes.c_float * 3),
        ("function", ctypes.c_int),
        ("kind", ctypes.c_int),
    )


@cache
def _library() -> ctypes.CDLL | None:
    found = library("decode", _WITHOUT)
    if found is not None:
        pointer, long, int_ = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        found.run_calls.argtypes, found.run_calls.restype = (pointer, long, int_, pointer), int_
    return found


def serves(*tensors: torch.Tensor | None) -> bool:
    """Whether the library computes with ``tensors`` (None left out), which must be of one dtype;
    torch's kernels serve elsewhere."""
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    fits = dtype in KINDS and all(
        tensor.dtype == dtype and tensor.device.type == "cpu" for tensor in given
    )
    return fits and _library() is not None
