"""What is found beside the reference's own error, and what rounding explains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmc.check.align.yardstick import judge, measured
from glmc.ir.ops import Numerics
from glmc.ir.tolerance import Tolerance

WIDE = Tolerance(Numerics.REORDERED, 1024, 16)
LOW = (torch.bfloat16, torch.float16)
ROWS, WIDTH = 32, 256


@pytest.fixture
def exact() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, WIDTH, generator=generator) * torch.logspace(-2, 2, ROWS)[:, None]


@pytest.mark.parametrize("dtype", LOW)
def test_what_is_rounded_once_or_twice_is_right(exact: Tensor, dtype: torch.dtype) -> None:
    once, factor = exact.to(dtype), torch.tensor(1.37)
    twice = ((exact / factor).to(dtype).float() * factor).to(dtype)
    assert judge(exact, [once], once, WIDE).found == ""
    assert judge(exact, [twice], twice, WIDE).found == ""
    assert judge(exact, [twice], once, WIDE).found == ""


@pytest.mark.parametrize("dtype", LOW)
def test_what_is_beyond_the_bound_is_wrong(exact: Tensor, dtype: torch.dtype) -> None:
    wrong = exact.to(dtype)
    wrong[3, 7] += 40 * exact[3].abs().max()
    judged = judge(exact, [exact.to(dtype)], wrong, WIDE)
    assert judged.found.startswith("off by ") and " is allowed" in judged.found
    assert judged.bound > 0
    wrong[3, 7] = torch.nan
    assert judge(exact, [exact.to(dtype)], wrong, WIDE).found.startswith("off by inf ")


def test_in_float32_the_bound_decides(exact: Tensor) -> None:
    assert judge(exact, [exact], exact * (1 + 1e-6), WIDE).found == ""
    assert "is allowed" in judge(exact, [exact], exact * (1 + 1e-4), WIDE).found


@pytest.mark.parametrize("dtype", LOW)
def test_errors_that_are_larger_than_the_reference_s_are_found(
    exact: Tensor, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(4)
    unit = torch.finfo(dtype).eps
    noise = 1 + 0.6 * unit * torch.randn(exact.shape, generator=generator)
    found = judge(exact, [exact.to(dtype)], (exact * noise).to(dtype), WIDE).found
    assert "(root mean square), where the reference in" in found


@pytest.mark.parametrize("dtype", LOW)
def test_sums_that_are_rounded_on_the_way_are_found(exact: Tensor, dtype: torch.dtype) -> None:
    """Of few rows that are off by more than usual: elements are rounded to another side."""
    exact = exact[:4]
    generator = torch.Generator().manual_seed(4)
    unit = torch.finfo(dtype).eps
    noise = 1 + 0.27 * unit * torch.randn(exact.shape, generator=generator)
    found = judge(exact, [exact.to(dtype)], (exact * noise).to(dtype), WIDE).found
    assert "of its elements are not the exact ones rounded to" in found


@pytest.mark.parametrize("dtype", LOW)
def test_factors_of_rows_that_are_less_than_a_rounding_are_found(
    exact: Tensor, dtype: torch.dtype
) -> None:
    """The reference rounds twice, so that neither size nor share of errors tells."""
    factors = 1 + 0.12 * torch.finfo(dtype).eps * torch.linspace(-1, 1, ROWS).sign()[:, None]
    twice = ((exact / 1.37).to(dtype).float() * 1.37).to(dtype)
    found = judge(exact, [twice], (exact * factors).to(dtype), WIDE).found
    assert "lean to one side" in found
    few = slice(0, 4)  # of which nobody can tell
    assert judge(exact[few], [twice[few]], (exact * factors).to(dtype)[few], WIDE).found == ""


def test_the_measures_of_what_is_equal_and_of_nothing(exact: Tensor) -> None:
    once = measured(exact, exact.bfloat16())
    assert 0.5e-3 < once.size < 3e-3 and once.unlike == 0 and 0.3 < once.lean < 2
    assert once.rows == ROWS
    same = measured(exact.bfloat16().float(), exact.bfloat16())
    assert (same.size, same.unlike, same.lean, same.rows) == (0, 0, 0, 0)
    assert measured(torch.zeros(2, 3), torch.zeros(2, 3)).size == 0
    empty = torch.zeros(0, 3)
    assert judge(empty, [empty.half()], empty.half(), WIDE).found == ""
