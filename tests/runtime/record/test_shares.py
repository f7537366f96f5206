"""What ranks have together: whole, side by side, or as a sum, and how far apart they are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmc_runtime.format.dealt import Dealt
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue
from glmc_runtime.record.shares import JOINED, SUMMED, WHOLE, whole_of

KEY = TensorKey("a", "Linear", 0, OUTPUT, "0")
VALUE = PlanValue(
    0, "a", "linear", "a", 0, "float32", ("tokens", "4"), 0, None, None, (KEY,), "", ()
)
HALVES = Dealt(1, 4, (((0, 2),), ((2, 2),)))


def whole(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_what_each_rank_has_is_compared_among_them() -> None:
    value, nan = whole(3, 4), whole(3, 4)
    nan[0, 0] = math.nan
    together = whole_of(VALUE, [value, value.clone(), value.clone()])
    assert (together.tensor is value, together.how, together.apart) == (True, WHOLE, 0.0)
    other = value.clone()
    other[1, 2] += 0.5
    assert whole_of(VALUE, [value, value, other]).apart == pytest.approx(0.5)
    assert whole_of(VALUE, [nan, nan.clone()]).apart == 0.0
    assert whole_of(VALUE, [nan, value]).apart == math.inf
    assert whole_of(VALUE, [value]).apart is None
    experts = torch.tensor([[0, 5]]), torch.tensor([[0, 7]])
    assert whole_of(VALUE, experts).apart == 2.0


def test_a_value_that_is_cut_is_put_together_along_its_axis() -> None:
    value = whole(3, 4)
    together = whole_of(replace(VALUE, dealt=HALVES), value.split(2, 1))
    assert torch.equal(together.tensor, value)
    assert (together.how, together.apart) == (JOINED, None)
    heads = whole(3, 4, 8)
    cut = replace(VALUE, shape=("tokens", "2", "8"), dealt=HALVES)
    assert torch.equal(whole_of(cut, heads.split(2, 1)).tensor, heads)


def test_sections_repeated_heads_and_what_fills_up_have_their_places() -> None:
    """Two query heads, the one KV head that both read, and a third rank that only fills up."""
    value = whole(5, 8)
    dealt = Dealt(1, 8, (((0, 2), (4, 4)), ((2, 2), (4, 4)), ((None, 6),)))
    cut = replace(VALUE, shape=("tokens", "6"), dealt=dealt)
    shares = [value[:, [0, 1, 4, 5, 6, 7]], value[:, [2, 3, 4, 5, 6, 7]], whole(5, 6)]
    together = whole_of(cut, shares)
    assert torch.equal(together.tensor, value)
    assert together.apart == 0.0
    shares[1][2, 3] += 0.25
    again = whole_of(cut, shares)
    assert again.apart == pytest.approx(0.25)
    assert torch.equal(again.tensor, value)  # the first rank's


def test_of_one_rank_the_zeros_between_are_left_out() -> None:
    value = whole(2, 4)
    dealt = Dealt(1, 4, (((0, 3), (None, 2), (3, 1)),))
    share = torch.cat([value[:, :3], torch.zeros(2, 2), value[:, 3:]], 1)
    cut = replace(VALUE, shape=("tokens", "6"), dealt=dealt)
    assert torch.equal(whole_of(cut, [share]).tensor, value)


@pytest.mark.parametrize(
    ("shape", "axis", "rows"),
    [(("blocks", "2", "16", "8"), 1, (7, 4, 8)), (("blocks", "16", "2"), 2, (7, 4))],
)
def test_rows_of_a_cache_are_joined_without_the_tokens_of_a_block(
    shape: tuple[str, ...], axis: int, rows: tuple[int, ...]
) -> None:
    value = whole(*rows)
    cut = replace(VALUE, shape=shape, buffer=None, cache="key", dealt=replace(HALVES, axis=axis))
    assert torch.equal(whole_of(cut, value.split(2, 1)).tensor, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_summands_are_added_along_a_tree_in_their_dtype(dtype: torch.dtype) -> None:
    shares = [each.to(dtype) for each in whole(5, 3, 4)]
    together = whole_of(replace(VALUE, dealt=Dealt()), shares)
    a, b, c, d, e = shares
    assert torch.equal(together.tensor, ((a + b) + (c + d)) + e)
    assert (together.how, together.apart, together.tensor.dtype) == (SUMMED, None, dtype)
