"""Magnitudes: signs, nothing at all, infinities, and NaN, which outdoes all."""

from __future__ import annotations

import math

import pytest
import torch

from glmc.range_check.magnitude import magnitude_of, outdoes, text_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("values", "largest"),
    [([1.0, -3.0], 3.0), ([2.0, -1.0], 2.0), ([], 0.0), ([1.0, -math.inf], math.inf)],
)
def test_the_largest_magnitude(dtype: torch.dtype, values: list[float], largest: float) -> None:
    assert magnitude_of(torch.tensor(values, dtype=dtype)) == largest


def test_one_nan_among_infinities_is_seen() -> None:
    assert math.isnan(magnitude_of(torch.tensor([math.inf, math.nan, 1.0])))


def test_nan_outdoes_infinity_and_nothing_outdoes_nan() -> None:
    assert outdoes(math.nan, math.inf)
    assert not outdoes(math.inf, math.nan)
    assert not outdoes(math.nan, math.nan)
    assert outdoes(2.0, 1.0) and not outdoes(1.0, 1.0)


def test_texts_have_three_digits() -> None:
    assert [text_of(each) for each in (12345.678, math.inf, math.nan)] == ["1.23e+04", "inf", "nan"]
