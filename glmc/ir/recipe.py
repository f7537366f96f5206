"""Recipes of packed weights from checkpoint tensors: small trees of plain data.

A recipe says nothing about files. ``Source`` names a parameter as the traced module names it;
the checkpoint reader maps that to what the files hold (per-expert tensors, for instance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import torch


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


Recipe = Union[Source, Concatenate, Stack, Constant, RopeTable]


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
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


def sources(recipe: Recipe) -> tuple[Source, ...]:
    """All parameters that a recipe reads, in order."""
    if isinstance(recipe, Source):
        return (recipe,)
    if isinstance(recipe, (Concatenate, Stack)):
        return tuple(source for part in recipe.parts for source in sources(part))
    return ()
