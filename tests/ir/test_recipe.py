"""Recipes of several ranks: what each rank has, evaluated and streamed."""

from __future__ import annotations

import torch

from glmc.ir.layout import Layout, Section, even
from glmc.ir.recipe import ByRank, Concatenate, Dealt, First, Recipe, Source, Stack, Weight, sources
from glmc.weights.evaluate import evaluate

READ = {"a": torch.arange(24.0).view(6, 4), "b": 100 + torch.arange(24.0).view(6, 4)}
A, B = Source("a", (6, 4)), Source("b", (6, 4))


def made(recipe: Recipe, shape: tuple[int, ...], rank: int) -> torch.Tensor:
    return evaluate(Weight("w", shape, torch.float32, recipe).on(rank), READ.__getitem__)


def test_rows_of_a_merged_projection() -> None:
    both = Dealt(Concatenate((A, B)), 0, Layout((Section(6), Section(6)), 2))
    expected = torch.cat([READ["a"][3:], READ["b"][3:]])
    assert torch.equal(made(both, (6, 4), 1), expected)


def test_columns_with_zeros_where_they_do_not_divide() -> None:
    dealt = Dealt(A, 1, even(4, 3))
    assert torch.equal(made(dealt, (6, 2), 1), READ["a"][:, 2:4])
    assert torch.equal(made(dealt, (6, 2), 2), torch.zeros(6, 2))


def test_a_dimension_of_stacked_experts() -> None:
    dealt = Dealt(Stack((A, B)), 2, even(4, 2))
    assert torch.equal(made(dealt, (2, 6, 2), 1), torch.stack([READ["a"], READ["b"]])[:, :, 2:])


def test_what_the_first_rank_alone_has() -> None:
    first = First(A, (6, 4))
    assert torch.equal(made(first, (6, 4), 0), READ["a"])
    assert torch.equal(made(first, (6, 4), 1), torch.zeros(6, 4))


def test_a_number_by_rank() -> None:
    weight = Weight("first", (1,), torch.int64, ByRank((0, 50000)))
    assert evaluate(weight.on(1), READ.__getitem__).tolist() == [50000]


def test_sources_are_those_of_the_parts() -> None:
    assert sources(First(Dealt(Concatenate((A, B)), 0, even(12, 2)), (12, 4))) == (A, B)
