"""Zeros that take no memory until they are written."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from glmc_runtime.replay.untouched import zeros

CPU = torch.device("cpu")
_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Anonymous memory of this process, in bytes."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("shape", [(3,), (1 << 10, 1 << 10), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
def test_they_are_zeros_that_can_be_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = zeros(shape, dtype, CPU)
    assert found.shape == shape and found.dtype == dtype and found.is_contiguous()
    assert not found.any()
    found.fill_(3)
    assert bool((found == 3).all())


@pytest.mark.skipif(not _STATUS.is_file(), reason="no /proc here")
def test_memory_is_taken_by_what_is_written_and_given_back() -> None:
    size = 256 << 20
    before = resident()
    found = zeros((size,), torch.uint8, CPU)
    assert resident() - before < size // 8
    found[: size // 2] = 1
    assert size // 2 <= resident() - before < size
    del found
    gc.collect()
    assert resident() - before < size // 8
