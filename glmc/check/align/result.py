"""The result of an alignment: each value of both sides, how far apart, and whose error it is.

``expected`` is the reference, ``actual`` what is aligned with it. The *own* error of a value is
that of its kernel calls, run on the reference's operands; the *inherited* one is what a right
computation makes of the operands that the calls had. Where only two files are compared neither is
known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from glmc_runtime.record.tensors import Statistics


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
    """``actual`` against ``expected``, over the elements that are finite on both sides but for the
    counts; what these do not say is NaN: all of it where no element is finite on both sides.

    ``largest_relative`` is over elements that are expected not to be 0, ``magnitude`` the root mean
    square of what is expected. ``close`` is the share of all elements, 0 to 1, within the
    tolerance: equal infinities are, NaN never is. ``ulps`` counts elements by distance in units in
    the last place of the coarser dtype: 0, 1, 2, 3 to 4, 5 to 8, ... doubling, the last bin open.
    ``cosine`` is NaN where a side is all zeros. ``apart`` counts elements that are finite on one
    side alone, or of which the sides are NaN and infinite, or infinite with other signs."""

    elements: int
    largest_absolute: float
    largest_relative: float
    rmse: float
    magnitude: float
    cosine: float
    close: float
    ulps: tuple[int, ...]
    expected_nan: int
    actual_nan: int
    expected_inf: int
    actual_inf: int
    apart: int

    @property
    def non_finite(self) -> bool:
        """Whether the sides differ in what is not finite."""
        return self.apart > 0

    @property
    def relative(self) -> float:
        """The root mean square of the error as a share of that of the values."""
        if not self.rmse:
            return 0.0
        return self.rmse / self.magnitude if self.magnitude else math.inf


@dataclass(frozen=True)
class RouterAgreement:
    """Of the experts that a router chose: ``agreeing`` of ``tokens`` chose the same set.

    ``margins`` are of the tokens that did not, by the reference's scores: how far the lowest expert
    that the other side chose in exchange is below the highest that it left out. Of a tie it is next
    to nothing. None where scores are not known. ``ties`` are of the same tokens the largest margins
    that the error of what the router read explains; None where that is not known."""

    tokens: int
    agreeing: int
    margins: tuple[float, ...] | None
    ties: tuple[float, ...] | None = None

    @property
    def tied(self) -> bool | None:
        """Whether the errors before explain every other choice; None where that is not known."""
        if self.agreeing == self.tokens:
            return True
        if self.margins is None or self.ties is None:
            return None
        return all(each <= tie for each, tie in zip(self.margins, self.ties, strict=True))


@dataclass(frozen=True)
class OwnOfPart:
    """Of columns of a value, which are a tensor with these ``names``: what calls and operands have
    there, beside the bound of the whole. ``found`` says what is wrong, '' where nothing is."""

    names: tuple[str, ...]
    own: Difference
    inherited: Difference
    bound: float
    share: float
    found: str


@dataclass(frozen=True)
class AlignedValue:
    """A value of both sides. ``name`` is the key of a tensor (see tensor_key.py); ``node`` the id
    of the node that computes it, '' of a foreign file; ``function`` the kernel calls for it;
    ``paired_by`` says how the two were found to be one: ``node``, ``key``, ``module and shape`` or
    ``order and shape``; ``program``: expected is what the program makes of the reference's values.
    ``bound`` is the largest own error that its numerics class allows. ``also``
    are other names of the same tensor, which is compared once. ``statistics`` are those of the two
    sides where nothing else could be compared; ``total`` has counts alone then. ``share`` is the
    error as a share of what the thresholds allow: beyond 1 is a fail. Of an artifact of several
    ranks ``dealt`` says how the value was made of what they have, and ``ranks_apart`` how far they
    differ in what they have alike (see :mod:`glmc_runtime.record.shares`). ``parts`` are those of a
    merged projection, by what its calls do in each."""

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
    also: tuple[str, ...] = ()
    statistics: tuple[Statistics, Statistics] | None = None
    share: float | None = None
    dealt: str = ""
    ranks_apart: float | None = None
    parts: tuple[OwnOfPart, ...] = ()


@dataclass(frozen=True)
class Alignment:
    """``expected`` and ``actual`` are labels of the sides, ``facts`` what each says of itself;
    ``unpaired`` are names that only one side has, by side (0: expected, 1: actual).
    ``thresholds`` says in words what the verdicts follow."""

    expected: str
    actual: str
    facts: tuple[Mapping[str, Any], Mapping[str, Any]]
    values: tuple[AlignedValue, ...]
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    remarks: tuple[str, ...] = ()
    thresholds: str = ""

    @property
    def emulated(self) -> bool:
        """Whether a side was computed by the emulator and not by the vendor's hardware."""
        return any(bool(each.get("emulated")) for each in self.facts)

    @property
    def first(self) -> AlignedValue | None:
        """The first value whose verdict is own or fail, in order of execution."""
        wrong = (Verdict.OWN, Verdict.FAIL)
        return next((each for each in self.values if each.verdict in wrong), None)

    @property
    def first_own(self) -> AlignedValue | None:
        """The first value whose calls are wrong."""
        return next((each for each in self.values if each.verdict is Verdict.OWN), None)
