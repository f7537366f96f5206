"""The result of an alignment: each value of both sides, how far apart, and whose error it is.

``expected`` is the reference, ``actual`` what is aligned with it. The *own* error of a value is
that of its kernel calls, run on the reference's operands; the *inherited* one is what a right
computation makes of the operands that the calls had. Where only two files are compared neither is
known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Verdict(Enum):
    """``OK``: within the bound of what was fused there, or nothing but inherited error. ``OWN``:
    the calls for this value are wrong. ``FAIL``: beyond the thresholds where own error is not
    known. ``UNKNOWN``: nothing says how far apart the two may be."""

    OK = "ok"
    OWN = "own"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Difference:
    """``actual`` against ``expected``, over elements that are finite on both sides but for the
    counts. ``close`` is the share of elements, 0 to 1, within the tolerance, non-finite ones
    counted as outside; ``ulps`` counts elements by distance in units in the last place of the
    coarser dtype: 0, 1, 2, 3 to 4, 5 to 8, ... doubling, the last bin open. ``cosine`` is NaN where
    a side is all zeros."""

    elements: int
    largest_absolute: float
    largest_relative: float
    rmse: float
    cosine: float
    close: float
    ulps: tuple[int, ...]
    expected_nan: int
    actual_nan: int
    expected_inf: int
    actual_inf: int

    @property
    def non_finite(self) -> bool:
        """Whether the sides differ in what is not finite."""
        return (self.expected_nan, self.expected_inf) != (self.actual_nan, self.actual_inf)


@dataclass(frozen=True)
class RouterAgreement:
    """Of the experts that a router chose: ``agreeing`` of ``tokens`` chose the same set.
    ``margins`` are, of the tokens that did not, the differences of the scores of the last expert
    chosen and the first one left out, by the reference; None where scores are not known."""

    tokens: int
    agreeing: int
    margins: tuple[float, ...] | None


@dataclass(frozen=True)
class AlignedValue:
    """A value of both sides. ``name`` is the key of a tensor (see tensor_key.py); ``node`` the id
    of the node that computes it, '' of a foreign file; ``function`` the kernel calls for it;
    ``paired_by`` says how the two were found to be one: ``node``, ``key``, ``module and shape`` or
    ``order and shape``. ``bound`` is the largest own error that its numerics class allows."""

    step: int
    order: int
    phase: str
    name: str
    other_name: str
    paired_by: str
    layer: int | None
    module: str
    op: str
    node: str
    function: str
    source: str
    passes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    total: Difference
    own: Difference | None
    inherited: Difference | None
    numerics: str | None
    bound: float | None
    router: RouterAgreement | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Alignment:
    """``expected`` and ``actual`` are labels of the sides, ``facts`` what each says of itself;
    ``unpaired`` are names that only one side has, by side (0: expected, 1: actual)."""

    expected: str
    actual: str
    facts: tuple[Mapping[str, Any], Mapping[str, Any]]
    values: tuple[AlignedValue, ...]
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    remarks: tuple[str, ...] = field(default=())

    @property
    def emulated(self) -> bool:
        """Whether a side was computed by the emulator and not by the vendor's hardware."""
        return any(bool(each.get("emulated")) for each in self.facts)

    @property
    def first(self) -> AlignedValue | None:
        """The first value whose verdict is own or fail, in order of execution."""
        wrong = (Verdict.OWN, Verdict.FAIL)
        return next((each for each in self.values if each.verdict in wrong), None)
