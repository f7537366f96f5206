"""Layers in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def spans(layers: Sequence[int]) -> str:
    """``3..91`` or ``1, 4..6``."""
    runs = []
    for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}")
    return ", ".join(runs)
