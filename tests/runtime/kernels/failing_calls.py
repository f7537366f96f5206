"""Calls of C that can be made to fail."""

from __future__ import annotations

import torch
from torch import Tensor

from glmc_runtime.kernels.cpu.native_call import NativeCall
from tests.runtime.kernels.harness import nan, random

WIDTH = 40


def experts(count: int, dtype: torch.dtype = torch.float32) -> tuple[NativeCall, Tensor]:
    """The experts of a token that has chosen the second of ``count``; and the ids."""
    ids = torch.tensor([[1]])
    x, out, results = (random(1, WIDTH, dtype=dtype) for _ in range(3))
    gate_up, down = (
        random(count, *shape, dtype=dtype) for shape in ((2 * WIDTH, WIDTH), (WIDTH, WIDTH))
    )
    merged_rows = nan(1, 2 * WIDTH, dtype=dtype)
    tensors = (x, ids, torch.ones(1, 1), gate_up, down, merged_rows, results, out, None)
    return NativeCall("few_rows_experts", tensors, (1, 1, count, WIDTH, WIDTH)), ids


def without_room() -> NativeCall:
    """Heads so large that no memory holds one."""
    x, places = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    tensors = (x, None, None, x, x, x, x, places, places)
    return NativeCall("rows_heads", tensors, (1, 1, 1, 1 << 60, 0, 1, 1, 1, 1, 1, 1, 0), (1e-5,))
