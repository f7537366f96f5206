"""How far two tensors are apart, in float64 and piece by piece: memory does not grow with them.

Beside the numbers of the whole there are those of each row, a token or a head of one: a mean over
all rows hides one that is wrong, and the magnitude of all hides that of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glmc.check.align.result import Difference
from glmc.check.align.ulps import BINS, ulp_counts, ulp_dtype
from glmc.errors import InternalError
from glmc_runtime.record.tensors import Statistics

_NOTHING = Statistics(math.nan, math.nan, math.nan, math.nan, 0, 0)
CHUNK = 1 << 18
"""Elements that are compared at once."""


@dataclass(frozen=True)
class Closeness:
    """What ``torch.isclose`` takes: ``|actual - expected| <= absolute + relative * |expected|``."""

    relative: float
    absolute: float


_CLOSENESS = {
    torch.float16: Closeness(1e-3, 1e-5),
    torch.bfloat16: Closeness(1.6e-2, 1e-5),
    torch.float32: Closeness(1.3e-6, 1e-5),
    torch.float64: Closeness(1e-7, 1e-7),
}


def closeness_of(dtype: torch.dtype) -> Closeness:
    """The tolerance of ``torch.testing.assert_close``; whole numbers must be equal."""
    return _CLOSENESS.get(dtype, Closeness(0.0, 0.0))


@dataclass(frozen=True)
class Rows:
    """Of each row, in float64: the root mean squares of the error and of what is expected, and the
    largest error as a share of the element's own magnitude or, where that is larger, its row's.
    ``apart``: whether it has elements that differ in not being finite."""

    errors: Tensor
    magnitudes: Tensor
    largest: Tensor
    apart: Tensor


@dataclass(frozen=True)
class Measured:
    """The whole, and each row."""

    difference: Difference
    rows: Rows


def difference(
    expected: Tensor,
    actual: Tensor,
    tolerance: Closeness | None = None,
    dtype: torch.dtype | None = None,
) -> Difference:
    """``actual`` against ``expected``, which have one shape; see :func:`measure`."""
    return measure(expected, actual, tolerance, dtype).difference


def measure(
    expected: Tensor,
    actual: Tensor,
    tolerance: Closeness | None = None,
    dtype: torch.dtype | None = None,
) -> Measured:
    """Compare two tensors of one shape, whose last dimension is a row.

    ``dtype`` is the coarser of what the two were computed in, for units in the last place and for
    the tolerance that is taken without one; default: the coarser of the tensors' own.
    """
    if expected.shape != actual.shape:
        raise InternalError(
            "tensors of two shapes are compared",
            expected=str(list(expected.shape)),
            found=str(list(actual.shape)),
        )
    dtype = dtype or coarser(expected.dtype, actual.dtype)
    width = expected.shape[-1] if expected.dim() and expected.numel() else 1
    was, now = expected.reshape(-1, width), actual.reshape(-1, width)
    sums = _Sums(len(was), tolerance or closeness_of(dtype), dtype)
    step = max(1, CHUNK // width)
    for start in range(0, len(was), step):
        sums.add(start, was[start : start + step], now[start : start + step])
    return sums.result()


def unmeasured(elements: int, statistics: tuple[Statistics, Statistics] | None) -> Difference:
    """What statistics of the two sides say: how many elements are not finite, and nothing else."""
    was, now = statistics or (_NOTHING, _NOTHING)
    apart = abs(was.nan - now.nan) + abs(was.inf - now.inf)
    none = math.nan
    counts = (was.nan, now.nan, was.inf, now.inf)
    return Difference(elements, none, none, none, none, none, none, (), *counts, apart)


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The dtype with the larger unit roundoff; that of the floating-point side where one is not."""
    floating = [each for each in (one, other) if each.is_floating_point]
    if not floating:
        return one if one == other else torch.int64
    return max(floating, key=lambda each: torch.finfo(each).eps)


class _Sums:
    """What is added up over the pieces."""

    def __init__(self, rows: int, tolerance: Closeness, dtype: torch.dtype) -> None:
        self.tolerance, self.dtype = tolerance, dtype
        self.elements = self.finite = self.close = self.apart = 0
        self.expected_nan = self.actual_nan = self.expected_inf = self.actual_inf = 0
        self.absolute = self.relative = 0.0
        self.squares = self.expected_squares = self.actual_squares = self.products = 0.0
        self.ulps = torch.zeros(BINS, dtype=torch.int64)
        # One block for all pieces: a small one after each would keep freed memory from the system.
        numbers = torch.empty(3, rows, dtype=torch.float64)
        self.rows = (*numbers, torch.zeros(rows, dtype=torch.bool))

    def add(self, start: int, expected: Tensor, actual: Tensor) -> None:
        was, now = expected.double(), actual.double()
        self.elements += was.numel()
        finite = was.isfinite().logical_and_(now.isfinite())
        if bool(finite.all()):
            number: Tensor | int = was.shape[1]
            apart = finite.new_zeros(len(was))
            self.ulps += ulp_counts(expected, actual, ulp_dtype(self.dtype))
        else:
            number = finite.sum(1).clamp_(min=1)
            apart = self._count(was, now, finite)
            self.ulps += ulp_counts(expected[finite], actual[finite], ulp_dtype(self.dtype))
            was, now = was.masked_fill(~finite, 0.0), now.masked_fill(~finite, 0.0)
        self.finite += int(finite.sum())
        self.products += float(torch.dot(was.flatten(), now.flatten()))
        error, size = (now - was).abs_(), was.abs()
        near = error <= self.tolerance.relative * size + self.tolerance.absolute
        self.close += int(near.logical_and_(finite).sum())
        self.absolute = max(self.absolute, _largest(error))
        self.relative = max(self.relative, _largest((error / size).masked_fill_(size == 0, 0.0)))
        errors, magnitudes, actuals = (each.square().sum(1) for each in (error, was, now))
        self.squares += float(errors.sum())
        self.expected_squares += float(magnitudes.sum())
        self.actual_squares += float(actuals.sum())
        errors, magnitudes = (errors / number).sqrt_(), (magnitudes / number).sqrt_()
        shares = error / torch.maximum(size, magnitudes[:, None])
        shares = shares.masked_fill_(error == 0, 0.0).amax(1)  # 0 / 0 of a row of zeros
        for whole, part in zip(self.rows, (errors, magnitudes, shares, apart), strict=True):
            whole[start : start + len(part)] = part

    def _count(self, was: Tensor, now: Tensor, finite: Tensor) -> Tensor:
        """Count what is not finite; which rows have some that differs."""
        self.expected_nan += int(was.isnan().sum())
        self.actual_nan += int(now.isnan().sum())
        self.expected_inf += int(was.isinf().sum())
        self.actual_inf += int(now.isinf().sum())
        self.close += int((was.isinf() & (was == now)).sum())
        apart = ~finite & ~((was == now) | (was.isnan() & now.isnan()))
        self.apart += int(apart.sum())
        return apart.any(1)

    def result(self) -> Measured:
        known = self.finite > 0
        norms = math.sqrt(self.expected_squares) * math.sqrt(self.actual_squares)
        difference = Difference(
            self.elements,
            self.absolute if known else math.nan,
            self.relative if known else math.nan,
            math.sqrt(self.squares / self.finite) if known else math.nan,
            math.sqrt(self.expected_squares / self.finite) if known else math.nan,
            self.products / norms if norms else math.nan,
            self.close / self.elements if self.elements else 1.0,
            tuple(self.ulps.tolist()),
            self.expected_nan,
            self.actual_nan,
            self.expected_inf,
            self.actual_inf,
            self.apart,
        )
        return Measured(difference, Rows(*self.rows))


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
