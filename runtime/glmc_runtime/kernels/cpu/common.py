"""What the CPU kernels share: thunks in a row, and the checks of shapes and dtypes."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def in_order(*thunks: Thunk) -> Thunk:
    """One thunk that calls ``thunks`` one after the other."""

    def run() -> None:
        for thunk in thunks:
            thunk()

    return run


def require_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise :class:`PlanError` unless ``tensor`` is contiguous and has ``shape``."""
    if tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise PlanError(
            f"'{name}' has the wrong shape",
            expected=f"contiguous {list(shape)}",
            found=f"{list(tensor.shape)}, strides {list(tensor.stride())}",
            remedy="compile the model again",
        )


def require_dtype(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Raise :class:`PlanError` unless ``tensor`` has one of ``dtypes`` (default: float kinds)."""
    allowed = dtypes or DTYPES
    if tensor.dtype not in allowed:
        raise PlanError(
            f"the CPU kernel has no version for the dtype of '{name}'",
            expected=" or ".join(str(dtype).removeprefix("torch.") for dtype in allowed),
            found=str(tensor.dtype).removeprefix("torch."),
            remedy="compile for the CPU with float32 or bfloat16",
        )


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """[..., width] as [rows, width], a view."""
    return tensor.view(-1, tensor.shape[-1])


def optional(arguments: dict[str, Any], name: str) -> torch.Tensor | None:
    """A tensor argument that may be None or absent."""
    value = arguments.get(name)
    return value if isinstance(value, torch.Tensor) else None
