"""Sums over the memory of peers of a group of cards: beside those in the order of the ranks.

Each rank makes the messages of all of them, so that what is compared crosses no link but in the
kernels themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bench.gpu.virtual_values import (
    Case,
    Rounded,
    cases,
    difference,
    in_rank_order,
    messages,
    rounded,
)
from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import RankError

SIZES = (7, 2049, 40_960, 300_001, 5_000_003)
"""Elements: less than a tile, for some programs, for all of them, and several pieces."""


def require_rank_order(
    group: Group,
    device: torch.device,
    chosen: Iterable[Case] | None = None,
    to: Rounded = rounded,
) -> None:
    """A collective call: raises :class:`RankError` on a rank that has another sum."""
    for case in cases(SIZES) if chosen is None else chosen:
        parts = messages(group.size, case, device)
        expected = in_rank_order(parts, to)
        found = parts[group.rank]
        group.all_reduce_of(found, f"peer_{case.algorithm}")()
        wrong = difference(found, expected)
        if wrong:
            raise RankError(
                f"rank {group.rank} has another sum over the memory of peers",
                place=str(case),
                expected="the bits of the sum in the order of the ranks",
                found=wrong,
                remedy="leave the all-reduces to the library on these cards",
            )
