"""What the ranks of an artifact have together of a value, made of each one's own.

What each has whole is taken from rank 0. Entries of an axis are put where they belong; those that
several ranks have, such as KV heads that are repeated, are the first rank's. Summands are added as
an all-reduce along a tree adds them: neighbours, then pairs of them, each sum rounded to the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glmc_runtime.format.dealt import Dealt
from glmc_runtime.format.values import PlanValue

WHOLE, JOINED, SUMMED = "whole", "joined", "summed"


@dataclass(frozen=True)
class Together:
    """``how`` the value was made, and how far ranks are ``apart`` in what several of them have:
    the largest absolute difference, infinity where one alone is finite. None where no two have
    anything alike."""

    tensor: Tensor
    how: str
    apart: float | None


def whole_of(value: PlanValue, shares: Sequence[Tensor]) -> Together:
    """The rows of a value by those that each rank has of it, in the order of the ranks."""
    first, *others = shares
    dealt = value.dealt
    if dealt is None:
        apart = max((_apart(first, each) for each in others), default=None)
        return Together(first, WHOLE, apart)
    if dealt.axis is None:
        return Together(_summed(shares), SUMMED, None)
    axis = dealt.axis
    if value.cache is not None and axis > _tokens_of_block(value):
        axis -= 1  # rows of a cache are tokens, and no longer blocks of them
    return _joined(shares, dealt, axis)


def _tokens_of_block(value: PlanValue) -> int:
    """Which dimension of a cache counts the tokens of a block: the second last of three, else the
    one after the heads."""
    return min(2, len(value.shape) - 2)


def _summed(shares: Sequence[Tensor]) -> Tensor:
    level = list(shares)
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def _joined(shares: Sequence[Tensor], dealt: Dealt, axis: int) -> Together:
    shape = list(shares[0].shape)
    shape[axis] = dealt.entries
    whole = shares[0].new_empty(shape)
    there = torch.zeros(dealt.entries, dtype=torch.bool)
    apart: float | None = None
    for share, runs in zip(shares, dealt.runs, strict=True):
        place = 0
        for start, length in runs:
            own = share.narrow(axis, place, length)
            place += length
            if start is None:
                continue
            known, target = there[start : start + length], whole.narrow(axis, start, length)
            if known.any():
                (again,) = known.nonzero(as_tuple=True)
                same = target.index_select(axis, again), own.index_select(axis, again)
                apart = max(apart or 0.0, _apart(*same))
            (new,) = (~known).nonzero(as_tuple=True)
            target.index_copy_(axis, new, own.index_select(axis, new))
            known.fill_(True)
    return Together(whole, JOINED, apart)


def _apart(first: Tensor, second: Tensor) -> float:
    if torch.equal(first, second):
        return 0.0
    one, other = first.double(), second.double()
    same = (one == other) | (one.isnan() & other.isnan())
    far = (one - other).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(far.masked_fill(same, 0.0).max())
