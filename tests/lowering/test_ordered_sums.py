"""Where a sum is cut: one tree for any number of ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.ir.layout import Layout, Section, even
from glmc.ir.recipe import Dealt, Source, Weight
from glmc.lowering.ordered_sums import Sums, sums_of
from glmc.lowering.target import Value, fixed
from glmc_runtime.format.plan import WeightArgument


def sums(depth: int, layout: Layout | None = None, promise: str = "ranks") -> Sums:
    source = Source("down.weight", (3, depth))
    recipe: Any = source if layout is None else Dealt(source, 1, layout)
    local = depth if layout is None else layout.local
    weight = Weight("down.weight", (3, local), torch.float32, recipe)
    emit: Any = SimpleNamespace(
        options=SimpleNamespace(deterministic=promise), recipe=lambda value: weight
    )
    shape = (fixed(3), fixed(local))
    value = Value(weight.name, shape, torch.float32, WeightArgument(weight.name))
    return sums_of(emit, value)


def test_a_batch_is_promised_with_one_sum() -> None:
    assert sums(96, promise="batch") == Sums(1, 96, False)


def test_one_rank_cuts_as_eight_would() -> None:
    assert sums(96) == Sums(8, 12, False)
    assert sums(36) == Sums(4, 9, False)
    assert sums(35) == Sums(1, 35, False)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_have_a_run_of_the_segments(ranks: int) -> None:
    assert sums(96, even(96, ranks)) == Sums(8 // ranks, 12, True)
    assert sums(64, even(64, ranks, 8)) == Sums(8 // ranks, 8, True)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("section", "length"),
    [(Section(2, 48, parts=3), 16), (Section(2, 32, parts=2), 16), (Section(100), 13)],
)
def test_what_does_not_divide_is_cut_as_eight_have_it(
    section: Section, length: int, ranks: int
) -> None:
    """Six heads on two KV heads, four on two, and a width of 100."""
    layout = Layout((section,), ranks, merged=8 // ranks)
    assert sums(section.entries, layout) == Sums(8 // ranks, length, ranks > 1)
