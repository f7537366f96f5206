"""Whether the calls for a value are wrong: by the bound, and beside the reference's own error.

The bound of a numerics class (glmc/ir/tolerance.py) is of the largest error that rounding may
explain. In bfloat16 and float16 it is wide, and much hides below it: a sum that is added up in
float16, an eps in the wrong place. So there what the calls left and what the reference op makes of
the same operands in the model's dtype are both held against the reference in float32. A kernel that
rounds where it must is about as far off as the reference, by each of three measures:

* ``size``: the root mean square of the error, relative to the row's magnitude.
* ``unlike``: the share of elements that are not the exact value, rounded once.
* ``lean``: by how much errors of a row go along with its values. Rounding goes up as often as down:
  the square of the sum is then about what its terms add up to, and their ratio about 1. A wrong
  factor, be it that of a single row, makes it large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glmc.ir.tolerance import Tolerance, compare, roundoff

OTHER_VALUE = "the reference has another value"
"""What is said of a node whose calls compute it, and which the reference does not have so."""
_LOW = (torch.bfloat16, torch.float16)
# What is allowed, as a multiple of the reference's measure and beyond it. Of few rows the size
# spreads, since errors within a row have much in common; so does the lean, which needs some.
_SIZE, _SIZE_OF_ROW, _SIZE_BEYOND = 1.25, 1.0, 0.1
_UNLIKE, _UNLIKE_BEYOND = 1.25, 0.25
_LEAN, _LEAN_BEYOND, _LEAN_ROWS = 2.0, 2.0, 8


@dataclass(frozen=True)
class Judged:
    """``bound`` is the largest error allowed at the place where ``share`` of it is the largest;
    ``found`` says what is wrong, '' where nothing is."""

    bound: float
    share: float
    found: str


@dataclass(frozen=True)
class Measures:
    """How far a value is from the exact one; ``rows`` is how many had an error to lean."""

    size: float
    unlike: float
    lean: float
    rows: int


def judge(
    exact: Tensor,
    references: Sequence[Tensor],
    actual: Tensor,
    tolerance: Tolerance,
    times: float = 1.0,
) -> Judged:
    """``actual`` beside the reference op in float32 (``exact``) and in the model's dtype, in one or
    in several ways, all on the same operands. Of each measure ``times`` what calls may have is
    allowed."""
    deviation = compare(exact.to(actual.dtype), actual, tolerance)
    if not deviation.allowed:
        found = f"off by {deviation.error:.3g} where {deviation.bound:.3g} is allowed"
    elif actual.dtype not in _LOW or not actual.numel():
        found = ""
    else:
        found = _beside(exact, references, actual, times)
    return Judged(deviation.bound, deviation.share, found)


def _beside(exact: Tensor, references: Sequence[Tensor], actual: Tensor, times: float) -> str:
    """What is worse than of the references, '' for nothing."""
    ours, others = measured(exact, actual), [measured(exact, each) for each in references]
    size, unlike, lean = (
        max(getattr(each, name) for each in others) for name in ("size", "unlike", "lean")
    )
    dtype = str(actual.dtype).removeprefix("torch.")
    share = _SIZE + _SIZE_OF_ROW / math.sqrt(max(1, actual.numel() // actual.shape[-1]))
    if ours.size > times * (share * size + _SIZE_BEYOND * roundoff(actual.dtype)):
        return (
            f"off by {ours.size:.2g} of its magnitude (root mean square), where the reference in "
            f"{dtype} is off by {size:.2g}"
        )
    if ours.unlike > times * (_UNLIKE * unlike + _UNLIKE_BEYOND):
        return (
            f"{ours.unlike:.0%} of its elements are not the exact ones rounded to {dtype}, where "
            f"of the reference {unlike:.0%} are not"
        )
    if ours.rows >= _LEAN_ROWS and ours.lean > times * (_LEAN * lean + _LEAN_BEYOND):
        return (
            f"its errors lean to one side: {ours.lean:.1f} times what rounding explains, where "
            f"those of the reference in {dtype} do by {lean:.1f}"
        )
    return ""


def measured(exact: Tensor, value: Tensor) -> Measures:
    """The three measures, over rows of finite elements."""
    was, now = (each.double().reshape(-1, each.shape[-1]) for each in (exact, value))
    errors = (now - was).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    was = was.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    sizes = was.square().sum(-1)
    shares = (errors.square().sum(-1) / sizes)[sizes > 0]
    along = errors * was
    spread = along.square().sum(-1)
    leans = (along.sum(-1).square() / spread)[spread > 0]
    return Measures(
        float(shares.mean().sqrt()) if shares.numel() else 0.0,
        float((exact.to(value.dtype) != value).double().mean()),
        float(leans.mean()) if leans.numel() else 0.0,
        leans.numel(),
    )
