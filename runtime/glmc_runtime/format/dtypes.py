"""The dtype names that a manifest and a plan may use."""

from __future__ import annotations

import torch

from glmc_runtime.errors import PlanError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
    # Of traced programs only: no kernel of an artifact has them.
    "complex64": torch.complex64,
    "complex128": torch.complex128,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of ``name``; raises :class:`PlanError` for one that is not known."""
    if name not in DTYPES:
        raise PlanError(f"'{name}' is no dtype", expected=", ".join(DTYPES))
    return DTYPES[name]
