"""Distances in units in the last place: how many numbers of a dtype are from one to the other.

The bits of a positive floating-point number, read as an integer, are its place among the numbers of
its dtype; those of a negative one likewise, from 0 down. So the difference of two such integers is
exact, for subnormal numbers and across 0 too.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 24
"""0, 1, 2, 3 to 4, 5 to 8, ...; the last takes all beyond 2**21, a quarter of a float32 binade."""

_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def ulp_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype whose numbers are counted: float32 where a finer or another one was computed in;
    whole numbers are their own places."""
    return dtype if dtype in _BITS or not dtype.is_floating_point else torch.float32


def ulp_counts(expected: Tensor, actual: Tensor, dtype: torch.dtype) -> Tensor:
    """How many pairs of finite elements are how far apart, in bins as :data:`BINS` says."""
    distance = ulp_distance(expected, actual, dtype).flatten()
    # 2**(n-1) < distance <= 2**n is bin n + 1. Distances of 16 bits are exact in float32.
    exact = torch.float32 if distance.dtype == torch.int32 else torch.float64
    _, exponent = torch.frexp((distance - 1).clamp_(min=0).to(exact))
    bins = exponent.add_(1).masked_fill_(distance == 0, 0).clamp_(max=BINS - 1)
    return torch.bincount(bins, minlength=BINS)


def ulp_distance(expected: Tensor, actual: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of each pair of finite elements, after both are rounded to ``dtype``."""
    return _place(expected, dtype).sub_(_place(actual, dtype)).abs_()


def _place(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A new tensor: int32 of 16 bits, else int64."""
    if not dtype.is_floating_point:
        return values.to(torch.int64, copy=True)
    if values.dtype != dtype:
        # What the dtype has no number for is as far as its largest.
        largest = torch.finfo(dtype).max
        values = values.clamp(-largest, largest).to(dtype)
    integer = _BITS[dtype]
    wide = torch.int32 if integer == torch.int16 else torch.int64
    bits = values.contiguous().view(integer).to(wide)
    return torch.where(bits < 0, -(bits & torch.iinfo(integer).max), bits)
