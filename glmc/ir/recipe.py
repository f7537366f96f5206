"""Recipes of packed weights from checkpoint tensors: small trees of plain data.

A recipe says nothing about files. ``Source`` names a parameter as the traced module names it;
the checkpoint reader maps that to what the files hold (per-expert tensors, for instance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Union

import torch

from glmc.ir.layout import Layout, Run


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the module by its qualified name, cast to the weight's dtype."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Concatenate:
    """Parts one after the other along dimension 0."""

    parts: tuple[Recipe, ...]


@dataclass(frozen=True)
class Stack:
    """Parts of one shape stacked along a new dimension 0."""

    parts: tuple[Recipe, ...]


@dataclass(frozen=True)
class Constant:
    """A small tensor that no checkpoint holds, such as the inverse frequencies of rope."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class RopeTable:
    """[rows, rotary_dim]: cos of all pairs, then sin, computed in float32, cast to the dtype."""

    inverse_frequencies: tuple[float, ...]
    rows: int
    scaling: float


@dataclass(frozen=True)
class Selected:
    """Runs of entries of ``axis``, one after the other; a run without a start is of zeros."""

    recipe: Recipe
    axis: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Dealt:
    """What a rank has of a value of which ``axis`` is dealt by ``layout``."""

    recipe: Recipe
    axis: int
    layout: Layout


@dataclass(frozen=True)
class First:
    """A value of ``shape`` on rank 0, zeros on the others."""

    recipe: Recipe
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ByRank:
    """One number, another on each rank."""

    values: tuple[int, ...]


OneRank = Union[Source, Concatenate, Stack, Constant, RopeTable, Selected, Zeros]
"""What is left once a rank is chosen."""
Recipe = Union[OneRank, Dealt, First, ByRank]


@dataclass(frozen=True)
class Weight:
    """A packed weight: its name, shape, dtype and how it is made.

    The recipe's values are cast to ``dtype`` once, from the checkpoint's own dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    recipe: Recipe

    @property
    def bytes(self) -> int:
        """Of one rank."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count

    def on(self, rank: int) -> Weight:
        """The weight as a rank has it."""
        return replace(self, recipe=on_rank(self.recipe, rank))


def on_rank(recipe: Recipe, rank: int) -> Recipe:
    """The recipe of what ``rank`` has."""
    if isinstance(recipe, Dealt):
        return Selected(on_rank(recipe.recipe, rank), recipe.axis, recipe.layout.runs(rank))
    if isinstance(recipe, First):
        return Zeros(recipe.shape) if rank else on_rank(recipe.recipe, rank)
    if isinstance(recipe, ByRank):
        return Constant((float(recipe.values[rank]),))
    if isinstance(recipe, (Concatenate, Stack)):
        return replace(recipe, parts=tuple(on_rank(part, rank) for part in recipe.parts))
    if isinstance(recipe, Selected):
        return replace(recipe, recipe=on_rank(recipe.recipe, rank))
    return recipe


def sources(recipe: Recipe) -> tuple[Source, ...]:
    """All parameters that a recipe reads, in order."""
    if isinstance(recipe, Source):
        return (recipe,)
    return tuple(source for part in parts_of(recipe) for source in sources(part))


def parts_of(recipe: Recipe) -> Sequence[Recipe]:
    """The recipes that a recipe is made of."""
    if isinstance(recipe, (Concatenate, Stack)):
        return recipe.parts
    return (recipe.recipe,) if isinstance(recipe, (Selected, Dealt, First)) else ()
