"""The dtype names that a manifest and a plan may use.

Torch is imported when a dtype is asked for: who checks names alone does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glmc_runtime.errors import PlanError

if TYPE_CHECKING:
    import torch

DTYPES = (
    *("float32", "float16", "bfloat16", "float64"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
    # Of traced programs only: no kernel of an artifact has them.
    *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
)


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of ``name``; raises :class:`PlanError` for one that is not known."""
    if name not in DTYPES:
        raise PlanError(f"'{name}' is no dtype", expected=", ".join(DTYPES))
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
