"""Numbers of a difference against plain formulas, and what a single number would hide."""

from __future__ import annotations

import math
import resource

import pytest
import torch

import glmc.check.align.metrics as metrics
from glmc.check.align.metrics import Closeness, closeness_of, coarser, difference, measure
from glmc.errors import InternalError


def pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(3)
    expected = torch.randn(*shape, generator=made)
    actual = expected + 0.01 * torch.randn(*shape, generator=made)
    return expected.to(dtype), actual.to(dtype)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_numbers_are_those_of_the_formulas_however_they_are_cut(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    expected, actual = pair(5, 3, 8)
    was, now = expected.double(), actual.double()
    found = difference(expected, actual, Closeness(0.05, 0.0))
    assert found.elements == 120
    assert found.largest_absolute == float((now - was).abs().max())
    assert found.largest_relative == float(((now - was) / was).abs().max())
    assert found.rmse == pytest.approx(float((now - was).square().mean().sqrt()), rel=1e-12)
    assert found.magnitude == pytest.approx(float(was.square().mean().sqrt()), rel=1e-12)
    cosine = torch.nn.functional.cosine_similarity(was.flatten(), now.flatten(), dim=0)
    assert found.cosine == pytest.approx(float(cosine), rel=1e-12)
    assert found.close == float(((now - was).abs() <= 0.05 * was.abs()).double().mean())
    assert 0 < found.close < 1
    assert sum(found.ulps) == 120
    assert not found.non_finite
    rows = measure(expected, actual).rows
    assert torch.allclose(rows.errors, (now - was).square().mean(-1).sqrt().flatten())
    assert torch.allclose(rows.magnitudes, was.square().mean(-1).sqrt().flatten())


def test_equal_tensors_have_no_difference() -> None:
    expected, _ = pair(4, 6, dtype=torch.bfloat16)
    found = difference(expected, expected.clone())
    assert (found.largest_absolute, found.rmse, found.relative, found.close) == (0, 0, 0, 1)
    assert found.ulps[0] == 24
    assert found.cosine == pytest.approx(1)


def test_an_all_nan_side_is_found_though_no_maximum_shows_it() -> None:
    expected, actual = pair(4, 6)
    found = difference(expected, torch.full_like(actual, math.nan))
    assert found.non_finite and found.apart == 24
    assert (found.expected_nan, found.actual_nan) == (0, 24)
    assert math.isnan(found.largest_absolute) and math.isnan(found.rmse)
    assert found.close == 0 and sum(found.ulps) == 0


def test_what_is_not_finite_in_the_same_way_is_no_difference_and_elsewhere_it_is() -> None:
    expected, actual = pair(2, 4)
    expected[0, 0] = actual[0, 0] = -math.inf
    expected[0, 1] = actual[0, 1] = math.nan
    found = difference(expected, actual, Closeness(9.0, 9.0))
    assert not found.non_finite
    assert math.isfinite(found.rmse)
    assert found.close == 7 / 8  # all but NaN
    # As many of each, in other places: the counts are equal.
    moved = actual.clone()
    moved[0, :2], moved[1, :2] = 0.0, actual[0, :2]
    found = difference(expected, moved)
    assert (found.expected_nan, found.expected_inf) == (found.actual_nan, found.actual_inf)
    assert found.non_finite and found.apart == 4
    assert measure(expected, moved).rows.apart.tolist() == [True, True]
    flipped = actual.clone()
    flipped[0, 0] = math.inf
    assert measure(expected, flipped).rows.apart.tolist() == [True, False]


def test_one_wrong_row_and_one_wrong_element_are_seen_in_the_rows() -> None:
    expected = torch.ones(1000, 64)
    actual = expected.clone()
    actual[7, 3] = 3.0
    found = measure(expected, actual)
    assert found.difference.relative < 0.01
    assert int(found.rows.errors.argmax()) == 7
    assert found.rows.errors[7] == 2 / 8
    assert found.rows.largest[7] == 2
    assert found.rows.largest.sum() == 2


def test_zeros_are_no_division_by_zero() -> None:
    zeros = torch.zeros(2, 3)
    found = measure(zeros, zeros)
    assert math.isnan(found.difference.cosine) and found.difference.relative == 0
    assert found.rows.largest.tolist() == [0, 0]
    other = measure(zeros, torch.ones(2, 3))
    assert other.difference.relative == math.inf
    assert other.difference.largest_relative == 0  # of no element; the absolute one has it
    assert other.difference.largest_absolute == 1
    assert other.rows.largest.tolist() == [math.inf, math.inf]


def test_the_coarser_dtype_decides_tolerance_and_units() -> None:
    expected = torch.tensor([[1.0, 1.0]])
    actual = torch.tensor([[1.0, 1.0 + 2.0**-7]])
    as_stored = difference(expected, actual)
    as_computed = difference(expected, actual, dtype=torch.bfloat16)
    assert as_stored.close == 0.5 and as_computed.close == 1.0
    assert as_computed.ulps[:2] == (1, 1)
    assert as_stored.ulps[1] == 0
    assert coarser(torch.float32, torch.bfloat16) is torch.bfloat16
    assert coarser(torch.float16, torch.bfloat16) is torch.bfloat16
    assert coarser(torch.int64, torch.float16) is torch.float16
    assert coarser(torch.int32, torch.int64) is torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_tolerance_is_that_of_torch_testing(dtype: torch.dtype) -> None:
    one = torch.ones((), dtype=dtype)
    torch.testing.assert_close(one + closeness_of(dtype).relative * 0.9, one)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(one * 4 * (1 + 3 * closeness_of(dtype).relative), one * 4)


def test_whole_numbers_must_be_equal() -> None:
    found = difference(torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 6]]))
    assert found.close == pytest.approx(2 / 3)
    assert found.ulps[:2] == (2, 1)


def test_nothing_and_a_scalar_can_be_compared() -> None:
    assert difference(torch.empty(0, 4), torch.empty(0, 4)).close == 1
    assert difference(torch.tensor(2.0), torch.tensor(3.0)).largest_absolute == 1


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InternalError, match="two shapes"):
        difference(torch.ones(2, 3), torch.ones(3, 2))


def test_memory_does_not_grow_with_the_tensors() -> None:
    large = torch.ones(1 << 25, dtype=torch.bfloat16).reshape(-1, 1024)
    other = large.clone()
    difference(large[:1024], other[:1024])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert difference(large, other).ulps[0] == 1 << 25
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 128 * 1024  # KiB; one copy of a side in float64 takes 256 MiB
