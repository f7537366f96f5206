"""Checks that the binders of all families share: shapes, dtypes, devices; thunks in a row."""

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
            f"the kernel has no version for the dtype of '{name}'",
            expected=" or ".join(str(dtype).removeprefix("torch.") for dtype in allowed),
            found=str(tensor.dtype).removeprefix("torch."),
            remedy="compile the model again, with one of these",
        )


def require_caches(arguments: dict[str, Any]) -> None:
    """Raise :class:`PlanError` unless ``key_cache`` and ``value_cache`` have one shape and the same
    strides, of which only the last must be 1: an outer engine's memory has its own."""
    keys, values = arguments["key_cache"], arguments["value_cache"]
    if keys.shape != values.shape or keys.stride() != values.stride() or keys.stride(-1) != 1:
        raise PlanError(
            "'key_cache' and 'value_cache' differ, or their heads are not contiguous",
            expected=f"{list(keys.shape)}, both with the same strides, the last of them 1",
            found=f"{list(values.shape)}, strides {list(keys.stride())} and "
            f"{list(values.stride())}",
        )


def require_like(name: str, tensor: torch.Tensor, other: torch.Tensor) -> None:
    """Raise unless ``tensor`` has the shape and the dtype of ``other``."""
    require_shape(name, tensor, tuple(other.shape))
    require_dtype(name, tensor, other.dtype)


def require_one_device(*tensors: torch.Tensor | None) -> None:
    """Raise :class:`PlanError` unless all of ``tensors`` (None left out) are on one device."""
    devices = sorted({str(tensor.device) for tensor in tensors if tensor is not None})
    if len(devices) > 1:
        raise PlanError(
            "the tensors of one kernel are on several devices",
            expected="one device",
            found=", ".join(devices),
        )


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """[..., width] as [rows, width], a view."""
    return tensor.view(-1, tensor.shape[-1])


def optional(arguments: dict[str, Any], name: str) -> torch.Tensor | None:
    """A tensor argument that may be None or absent."""
    value = arguments.get(name)
    return value if isinstance(value, torch.Tensor) else None


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least ``size``."""
    return 1 << max(size - 1, 0).bit_length()
