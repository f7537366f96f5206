"""Tensor descriptors: blocks of a matrix that the device's copy engine (TMA) moves by itself.

Rows and columns behind the matrix's end are zeros. Triton has them since 3.4, Hopper cards and
later ones the engine.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.kernels.cuda.launch import interpreted

ALIGNMENT = 16  # bytes, of the matrix and of its rows


def _descriptor_class() -> Any:
    try:
        from triton.tools.tensor_descriptor import TensorDescriptor
    except ImportError:
        return None
    return TensorDescriptor


def can_describe(matrix: torch.Tensor) -> bool:
    """Whether blocks of ``matrix`` [rows, columns] can be described on its device."""
    if _descriptor_class() is None or matrix.dim() != 2 or matrix.stride(1) != 1:
        return False
    size = matrix.element_size()
    if matrix.stride(0) * size % ALIGNMENT or matrix.data_ptr() % ALIGNMENT:
        return False
    if matrix.device.type != "cuda":
        return interpreted() or matrix.is_meta  # sizes alone, of a card that is not known
    return torch.cuda.get_device_capability(matrix.device) >= (9, 0)


def block_descriptor(matrix: torch.Tensor, block: tuple[int, int]) -> Any:
    """A descriptor of ``matrix`` in blocks of ``block`` rows and columns: a kernel's argument."""
    return _descriptor_class().from_tensor(matrix, list(block))
