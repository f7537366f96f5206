"""The largest magnitude of tensors, in which a NaN outdoes infinity."""

from __future__ import annotations

import math

from torch import Tensor


def magnitude_of(values: Tensor) -> float:
    """The largest magnitude: NaN where there is one, 0 of nothing."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()  # both are NaN where one value is
    return max(-float(low), float(high))


def outdoes(one: float, other: float) -> bool:
    """Whether ``one`` is further out than ``other``."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and not math.isnan(other)
    return one > other


def text_of(magnitude: float) -> str:
    """Three digits: the last ones follow the machine."""
    return f"{magnitude:.3g}"
