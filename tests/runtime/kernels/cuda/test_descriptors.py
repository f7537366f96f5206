"""Which matrices a tensor descriptor can have, and what it gives behind their ends."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from glmc_runtime.kernels.cuda import descriptors
from glmc_runtime.kernels.cuda.descriptors import block_descriptor, can_describe

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HERE = can_describe(torch.zeros(8, 8, dtype=torch.bfloat16, device=DEVICE))


@triton.jit
def copy_kernel(blocks, out, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(out + at, blocks.load([row, column]))


@pytest.mark.skipif(not HERE, reason="no device or interpreter with descriptors")
def test_behind_the_end_are_zeros() -> None:
    matrix = torch.arange(1, 10 * 24 + 1, dtype=torch.bfloat16, device=DEVICE).view(10, 24)
    out = torch.full((8, 16), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    copy_kernel[(1,)](block_descriptor(matrix, (8, 16)), out, 4, 16, ROWS=8, COLUMNS=16)
    expected = torch.zeros_like(out)
    expected[:6, :8] = matrix[4:, 16:]
    assert torch.equal(out, expected)


@pytest.mark.skipif(not HERE, reason="no device or interpreter with descriptors")
def test_what_can_be_described() -> None:
    matrix = torch.zeros(6, 24, dtype=torch.bfloat16, device=DEVICE)
    assert can_describe(matrix) and can_describe(matrix[1:]) and can_describe(matrix[:, :8])
    assert not can_describe(matrix[:, 4:])  # begins 8 bytes behind
    assert not can_describe(matrix.t())  # columns, not rows
    assert not can_describe(matrix[:, :20].contiguous())  # rows of 40 bytes
    assert not can_describe(matrix[0])


def test_sizes_alone_can_be_asked_for() -> None:
    assert can_describe(torch.zeros(6, 24, dtype=torch.bfloat16, device="meta"))


def test_no_descriptors_in_an_older_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_descriptor_class", lambda: None)
    assert not can_describe(torch.zeros(6, 24, dtype=torch.bfloat16, device=DEVICE))
