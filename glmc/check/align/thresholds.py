"""How far apart two values may be where nobody knows their own error.

* rounding: as far as rounding through the depth of the model makes them. Errors of sums and of
  stored values are independent and add up to about the square root of their number (Higham and
  Mary, see glmc/ir/tolerance.py), so a value of layer n - 1 may be off by

      K * (u_dtype + sqrt(terms) * u_float32) * sqrt(n)

  of its magnitude, where ``terms`` is the widest row so far: K is 4 for the root mean square of the
  whole, 16 for a row, 64 for an element. Of sound runs (two attention implementations of Hugging
  Face, also bfloat16 against float32; trained and random models of 3 to 40 layers and widths up to
  1024 in all three dtypes) the largest were 2.9, 12 and 38; a norm's weight that is off by 5%, a
  softmax scale off by 20%, a row of a projection left out and one token off by 10% gave 5.8 to
  13.5, up to 18 for the row and 180 for the element. What is smaller only own error shows.
* xray: torch_xray's Status as far as its published samples show it, which fail with a largest error
  of 0.0156 and not with 0.0078. The rule itself is not documented: this one is inferred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from glmc.check.align.metrics import Measured, Rows
from glmc.check.align.result import Verdict
from glmc.errors import UsageError
from glmc.ir.tolerance import roundoff
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.record.tensors import Statistics

WHOLE, ROW, ELEMENT = 4.0, 16.0, 64.0
XRAY_LARGEST = 1e-2
ONLY_STATISTICS = "min, max, mean and std alone were compared"
NO_DTYPE = "neither side says what it was computed in"
_PRINTED = 1e-5
"""Of equal values: statistics may be added up in another order, and tables have seven places."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a value: ``measured``, or else the ``statistics`` of both sides.

    ``exact`` values must be equal, as whole numbers and weights are. ``unit`` is the rounding of a
    layer as a share of the magnitude, None where nothing says what was computed in, ``depth`` the
    number of layers up to here.
    ``follows`` says which rows follow another choice of experts, so that they can't be judged.
    """

    measured: Measured | None
    statistics: tuple[Statistics, Statistics] | None = None
    exact: bool = False
    unit: float | None = None
    depth: int = 1
    follows: Tensor | None = None

    @property
    def allowed(self) -> float | None:
        return None if self.unit is None else self.unit * math.sqrt(self.depth)


@dataclass(frozen=True)
class Judgement:
    """``share`` is the error as a share of what is allowed; None where nothing says."""

    verdict: Verdict
    reason: str = ""
    share: float | None = None


class Thresholds(Protocol):
    """What decides where own error is not known; ``words`` say it in a sentence."""

    name: str
    words: str

    def judge(self, evidence: Evidence) -> Judgement: ...


def unit_of(dtype: torch.dtype, terms: int) -> float:
    """The rounding of one layer as a share of the magnitude."""
    return roundoff(dtype) + math.sqrt(terms) * roundoff(torch.float32)


class Rounding:
    """Errors of rounding through the depth of the model."""

    name = "rounding"
    words = (
        "allowed of the magnitude: (unit roundoff + sqrt(width) * 2**-24) * sqrt(layers so far), "
        f"{WHOLE:g} times for the root mean square, {ROW:g} times for a row, {ELEMENT:g} times for "
        "an element"
    )

    def judge(self, evidence: Evidence) -> Judgement:
        measured = evidence.measured
        if measured is None:
            return _by_statistics(evidence)
        clear = _clear(measured)
        if clear is not None:
            return clear
        if evidence.exact:
            return _exact(measured)
        follows, allowed = evidence.follows, evidence.allowed
        if allowed is None:
            return Judgement(Verdict.UNKNOWN, NO_DTYPE)
        whole = _judged(measured.rows, allowed)
        if follows is None or not bool(follows.any()) or whole.verdict is Verdict.OK:
            return whole
        judged = _judged(_some(measured.rows, ~follows), allowed)
        if judged.verdict is Verdict.FAIL:
            return judged
        count, rows = int(follows.sum()), len(follows)
        reason = f"{count} of {rows} rows follow another choice of experts and are not judged"
        verdict = Verdict.UNKNOWN if count == rows else Verdict.OK
        return Judgement(verdict, reason, None if count == rows else judged.share)


class Xray:
    """torch_xray's, inferred."""

    name = "xray"
    words = (
        f"largest absolute error of at most {XRAY_LARGEST:g}: torch_xray's rule as inferred from "
        "its published samples, since it is not documented"
    )

    def judge(self, evidence: Evidence) -> Judgement:
        if evidence.measured is None:
            return Judgement(Verdict.UNKNOWN, ONLY_STATISTICS)
        clear = _clear(evidence.measured)
        if clear is not None:
            return clear
        share = evidence.measured.difference.largest_absolute / XRAY_LARGEST
        if share > 1:
            return Judgement(Verdict.FAIL, f"largest error above {XRAY_LARGEST:g}", share)
        return Judgement(Verdict.OK, "", share)


ALL: tuple[Thresholds, ...] = (Rounding(), Xray())


def thresholds_named(name: str) -> Thresholds:
    """Raises :class:`UsageError` for a name that there is not."""
    found = next((each for each in ALL if each.name == name), None)
    if found is None:
        names = [each.name for each in ALL]
        raise UsageError(
            f"there are no thresholds '{name}'",
            expected=", ".join(names),
            remedy=did_you_mean(name, names) or f"--thresholds {names[0]}",
        )
    return found


def _clear(measured: Measured) -> Judgement | None:
    """What no threshold decides."""
    difference = measured.difference
    if difference.non_finite:
        rows = int(measured.rows.apart.sum())
        counts = (
            f"NaN {difference.expected_nan} | {difference.actual_nan}, "
            f"infinite {difference.expected_inf} | {difference.actual_inf}"
        )
        reason = f"{counts}: {difference.apart} elements in {rows} rows are not finite on one side"
        return Judgement(Verdict.FAIL, reason, math.inf)
    if math.isnan(difference.rmse):
        return Judgement(Verdict.UNKNOWN, "no element is finite on either side")
    return None


def _exact(measured: Measured) -> Judgement:
    differing = measured.difference.elements - measured.difference.ulps[0]
    if not measured.difference.largest_absolute:
        return Judgement(Verdict.OK, "", 0.0)
    return Judgement(Verdict.FAIL, f"{differing} elements differ, and none may", math.inf)


def _some(rows: Rows, keep: Tensor) -> Rows:
    return Rows(*(each[keep] for each in vars(rows).values()))


def _judged(rows: Rows, allowed: float) -> Judgement:
    """The share of what is allowed of the whole, of the worst row and of the worst element. A row
    whose magnitude is small beside that of most is judged by theirs."""
    if not len(rows.errors):
        return Judgement(Verdict.OK, "", 0.0)
    usual = float(rows.magnitudes.median()) or float(rows.magnitudes.square().mean().sqrt())
    magnitudes = rows.magnitudes.clamp(min=usual)
    errors, smaller = rows.errors / magnitudes, rows.magnitudes / magnitudes
    # Every row counts alike: one whose values are a hundred times those of others hides none.
    found = {
        "root mean square": float(errors.square().mean().sqrt()) / WHOLE,
        "row": float(errors.max()) / ROW,
        "element": float((rows.largest * smaller).max()) / ELEMENT,
    }
    if not usual:
        nothing = float(rows.errors.max()) == 0
        found = dict.fromkeys(found, 0.0 if nothing else math.inf)
    what = max(found, key=lambda name: found[name])
    share = found[what] / allowed if found[what] else 0.0
    if share <= 1:
        return Judgement(Verdict.OK, "", share)
    words = "the root mean square" if what == "root mean square" else f"the worst {what}"
    return Judgement(Verdict.FAIL, f"{words} is {share:.3g} times what rounding explains", share)


_NUMBERS = ("minimum", "maximum", "mean", "std")


def _by_statistics(evidence: Evidence) -> Judgement:
    if evidence.statistics is None:
        return Judgement(Verdict.UNKNOWN, "there is nothing to compare")
    was, now = evidence.statistics
    if (was.nan, was.inf) != (now.nan, now.inf):
        counts = f"NaN {was.nan} | {now.nan}, infinite {was.inf} | {now.inf}"
        return Judgement(Verdict.FAIL, f"{counts}; {ONLY_STATISTICS}", math.inf)
    numbers = [(getattr(was, name), getattr(now, name)) for name in _NUMBERS]
    if any(math.isfinite(one) != math.isfinite(other) for one, other in numbers):
        # A table without counts says it in its numbers alone.
        reason = f"what is finite on one side is not on the other; {ONLY_STATISTICS}"
        return Judgement(Verdict.FAIL, reason, math.inf)
    magnitude = math.hypot(was.mean, was.std)
    if math.isnan(magnitude):
        return Judgement(Verdict.UNKNOWN, f"no element is finite; {ONLY_STATISTICS}")
    largest = max(abs(was.minimum), abs(was.maximum))
    errors = (
        (max(abs(now.mean - was.mean), abs(now.std - was.std)), WHOLE * magnitude),
        (max(abs(now.minimum - was.minimum), abs(now.maximum - was.maximum)), ELEMENT * largest),
    )
    allowed = 0.0 if evidence.exact else evidence.allowed
    if allowed is None:
        return Judgement(Verdict.UNKNOWN, f"{NO_DTYPE}; {ONLY_STATISTICS}")
    share = max(_share(error, max(allowed, _PRINTED) * size) for error, size in errors)
    if not share <= 1:
        reason = f"{share:.3g} times what rounding explains; {ONLY_STATISTICS}"
        return Judgement(Verdict.FAIL, reason, share)
    return Judgement(Verdict.OK, ONLY_STATISTICS, share)


def _share(error: float, allowed: float) -> float:
    if not error:
        return 0.0
    return error / allowed if allowed else math.inf
