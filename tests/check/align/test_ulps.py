"""Distances in units in the last place are exact, whatever the dtype and the sign."""

from __future__ import annotations

import numpy
import pytest
import torch

from glmc.check.align.ulps import BINS, ulp_counts, ulp_distance, ulp_dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("start", [1.0, -1.0, 0.0, 6e-8, 1.999, -3e4])
def test_steps_of_nextafter_are_counted(dtype: torch.dtype, start: float) -> None:
    number = {torch.float16: numpy.float16, torch.float32: numpy.float32}[dtype]
    value = number(start)
    for steps in range(1, 9):
        value = numpy.nextafter(value, number(numpy.inf))
        pair = (torch.tensor([float(start)]).to(dtype), torch.tensor([float(value)]).to(dtype))
        assert ulp_distance(*pair, dtype).tolist() == [steps]
        assert ulp_distance(*reversed(pair), dtype).tolist() == [steps]


def test_bfloat16_is_counted_in_its_own_numbers_whatever_it_is_stored_in() -> None:
    one = torch.tensor([1.0])
    other = torch.tensor([1.0 + 2.0**-7 * 3])
    assert ulp_distance(one, other, torch.bfloat16).tolist() == [3]
    assert ulp_distance(one.bfloat16(), other.bfloat16(), torch.bfloat16).tolist() == [3]
    # A finer side is rounded first: the reference in float32 is within half a unit.
    finer = torch.tensor([1.0 + 2.0**-9])
    assert ulp_distance(finer, one, torch.bfloat16).tolist() == [0]


def test_zero_has_no_sign_and_is_between_the_smallest_numbers() -> None:
    smallest = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    pair = torch.tensor([0.0, smallest, 0.0]), torch.tensor([-0.0, -smallest, smallest])
    assert ulp_distance(*pair, torch.float32).tolist() == [0, 2, 1]


def test_what_the_coarser_dtype_has_no_number_for_is_as_far_as_its_largest() -> None:
    far = ulp_distance(torch.tensor([1e6]), torch.tensor([65504.0]), torch.float16)
    assert far.tolist() == [0]


def test_whole_numbers_are_their_own_places() -> None:
    assert ulp_distance(torch.tensor([3]), torch.tensor([-2]), torch.int64).tolist() == [5]


def test_bins_double() -> None:
    distances = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 2**40])
    counts = ulp_counts(torch.zeros_like(distances), distances, torch.int64).tolist()
    assert counts == [1, 1, 1, 2, 2, 2, 1, *[0] * (BINS - 8), 1]
    assert sum(counts) == len(distances)


def test_finer_than_float32_is_counted_in_float32() -> None:
    assert ulp_dtype(torch.float64) is torch.float32
    assert ulp_dtype(torch.bfloat16) is torch.bfloat16
    assert ulp_dtype(torch.int32) is torch.int32
