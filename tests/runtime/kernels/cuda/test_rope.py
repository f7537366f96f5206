"""Rotation of heads of any strides, against the plain torch calls of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.traced import find_traced_binder
from tests.runtime.kernels.cuda.paged import DEVICE
from tests.runtime.kernels.harness import close, nan, random

FLOAT = torch.float32


def table(rows: int, rotary: int, dtype: torch.dtype) -> Tensor:
    angles = random(rows, rotary // 2, seed=9)
    return torch.cat((angles.cos(), angles.sin()), -1).to(dtype)


def turn(
    family: str, x: Tensor, rows: Tensor, interleaved: bool, weight: Tensor | None = None
) -> Tensor:
    batch, tokens, heads, _ = x.shape
    arguments: dict[str, Any] = {
        "x": x,
        "table": rows,
        "interleaved": interleaved,
        "weight": weight,
        "eps": 1e-5,
        "out": nan(*x.shape, dtype=x.dtype),
        "product": nan(batch, tokens, heads, rows.shape[1] // 2, dtype=x.dtype),
        "normed": nan(*x.shape, dtype=x.dtype),
        "hidden": nan(*x.shape),
        "square": nan(*x.shape),
        "variance": nan(batch, tokens, heads, 1),
    }
    if family == "cuda":
        arguments = {
            name: value.to(DEVICE) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
    find_traced_binder(f"{family}.rope")(arguments)()
    out: Tensor = arguments["out"]
    return out.cpu()


def same(x: Tensor, rows: Tensor, interleaved: bool, weight: Tensor | None = None) -> None:
    found = turn("cuda", x, rows, interleaved, weight)
    close(found, turn("cpu", x, rows, interleaved, weight))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [4, 8, 16])
@pytest.mark.parametrize("normed", [False, True])
def test_rotations(interleaved: bool, rotary: int, normed: bool) -> None:
    weight = random(16, seed=5) if normed else None
    same(random(2, 3, 6, 16), table(6, rotary, FLOAT), interleaved, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_without_a_norm_the_bits_are_those_of_torch(dtype: torch.dtype) -> None:
    x, rows = random(1, 2, 4, 32, dtype=dtype), table(2, 16, dtype)
    assert torch.equal(turn("cuda", x, rows, False), turn("cpu", x, rows, False))


def test_bfloat16() -> None:
    x, rows = random(2, 2, 4, 32, dtype=torch.bfloat16), table(4, 16, torch.bfloat16)
    same(x, rows, True, random(32, dtype=torch.bfloat16, seed=5))


@pytest.mark.parametrize("heads", [1, 3, 24])
@pytest.mark.parametrize("head_dim", [16, 40])
def test_heads(heads: int, head_dim: int) -> None:
    same(random(1, 1, heads, head_dim), table(1, 8, FLOAT), False)


def test_one_table_for_every_sequence() -> None:
    same(random(3, 4, 2, 16), table(4, 8, FLOAT), False)


def test_heads_that_lie_anywhere() -> None:
    merged = random(2, 3, 8, 16)
    same(merged[:, :, 2:6], table(6, 8, FLOAT), False)
    same(merged.transpose(1, 2).contiguous().transpose(1, 2), table(6, 8, FLOAT), True)
    apart = merged.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert apart.stride(-1) != 1
    same(apart, table(6, 8, FLOAT), False)


@pytest.mark.parametrize("shape", [(5, 8), (6, 18), (6, 7)])
def test_a_table_that_does_not_fit_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(PlanError, match="table of rope"):
        turn("cuda", random(2, 3, 4, 16), random(*shape), False)


def test_a_table_of_another_dtype_is_refused() -> None:
    with pytest.raises(PlanError, match="'table'"):
        turn("cuda", random(1, 1, 4, 16), table(1, 8, torch.float16), False)
