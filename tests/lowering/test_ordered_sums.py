"""Where a sum is cut: one tree for any number of ranks, or a refusal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.errors import LoweringError
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
    return sums_of(emit, value, "layers.0.mlp.down_proj")


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


def test_ranks_without_a_unit_add_zeros() -> None:
    """Four heads of 16 on eight ranks: every other rank has none, and the tree is the same."""
    heads = Layout((Section(2, 32, parts=2),), 8)
    assert [run.start for rank in range(8) for run in heads.runs(rank)].count(None) == 4
    assert sums(64, heads) == Sums(2, 8, True)


@pytest.mark.parametrize("units", [6, 3])
def test_parts_that_make_another_tree_are_refused(units: int) -> None:
    with pytest.raises(LoweringError, match="another order"):
        sums(units * 16, even(units * 16, 4, 16))
