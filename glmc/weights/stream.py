"""Make packed weights from their recipes as streams of bounded pieces, in row-major order.

Those of all ranks come out of one pass over the checkpoint: what several ranks have is read once,
and so are the rows of which each has some columns.
:func:`glmc.weights.evaluate.evaluate` makes the same bytes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from glmc.errors import InternalError, PackError
from glmc.ir.recipe import (
    ByRank,
    Concatenate,
    Constant,
    Dealt,
    First,
    Recipe,
    Selected,
    Stack,
    Weight,
    on_rank,
    parts_of,
)
from glmc.weights.flat import CHUNK_BYTES, Data, FlatReader, load, recipe_shape
from glmc.weights.source import WeightSource


class Piece(NamedTuple):
    """The next elements of a weight on ``rank``; on all ranks where it is None."""

    rank: int | None
    data: Data


def stream_weight(
    weight: Weight, source: WeightSource, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Tensor]:
    """A weight of one rank as tensors in memory; see :func:`deal_weight`."""
    for _, data in deal_weight(weight, source, chunk_bytes):
        if isinstance(data, Tensor):
            yield data
        else:
            result = torch.empty(len(data), dtype=weight.dtype)
            load(data, result)
            yield result


def deal_weight(
    weight: Weight, source: WeightSource, chunk_bytes: int = CHUNK_BYTES, ranks: int = 1
) -> Iterator[Piece]:
    """Flat pieces of ``weight.dtype`` that are the weight, those of each rank in order.

    A tensor has at most ``chunk_bytes`` (and as stored in the source at most that, too). Raises
    :class:`PackError` when recipe and weight disagree and :class:`CheckpointError` when the source
    holds another shape or an overflow.
    """
    shape = recipe_shape(weight.recipe)
    if prod(shape) != prod(weight.shape) or (
        shape != weight.shape and not isinstance(weight.recipe, Constant)
    ):
        raise PackError(
            f"weight '{weight.name}' and its recipe have different shapes",
            expected=str(list(weight.shape)),
            found=str(list(shape)),
            remedy="report this: a pass made a wrong recipe",
        )
    for count in _counts(weight.recipe):
        if count != ranks:
            raise InternalError(
                f"the recipe of '{weight.name}' is for another number of ranks",
                expected=str(ranks),
                found=str(count),
            )
    reader = FlatReader(weight.name, weight.dtype, source, chunk_bytes)
    yield from _Dealer(reader, ranks).pieces(weight.recipe)


@dataclass(frozen=True)
class _Dealer:
    """Walks a recipe once for all ranks."""

    reader: FlatReader
    ranks: int

    def pieces(self, recipe: Recipe) -> Iterator[Piece]:
        if not _varies(recipe):
            for data in self.reader.pieces(recipe):
                yield Piece(None, data)
        elif isinstance(recipe, (Concatenate, Stack)):
            for part in recipe.parts:
                yield from self.pieces(part)
        elif isinstance(recipe, Dealt) and not _varies(recipe.recipe):
            yield from self._shares(recipe)
        else:
            for rank in range(self.ranks):
                for data in self.reader.pieces(on_rank(recipe, rank)):
                    yield Piece(rank, data)

    def _shares(self, recipe: Dealt) -> Iterator[Piece]:
        """The shares of all ranks, so that the whole is read from its begin to its end."""
        inside, axis = recipe.recipe, recipe.axis
        shape = recipe_shape(inside)
        rows = prod(shape[:axis])
        runs = [recipe.layout.runs(rank) for rank in range(self.ranks)]
        if self.reader.by_rows(inside, axis, runs):
            for rank, part in self.reader.rows(inside, axis, runs, 0, rows):
                yield Piece(rank, part)
            return
        shares = [Selected(inside, axis, each) for each in runs]
        row = recipe.layout.local * prod(shape[axis + 1 :])
        for number in range(rows):
            for rank, share in enumerate(shares):
                for data in self.reader.pieces(share, number * row, row):
                    yield Piece(rank, data)


def _varies(recipe: Recipe) -> bool:
    """Whether ranks have different values."""
    return isinstance(recipe, (Dealt, First, ByRank)) or any(map(_varies, parts_of(recipe)))


def _counts(recipe: Recipe) -> Iterator[int]:
    """The numbers of ranks that parts of a recipe are for."""
    if isinstance(recipe, Dealt):
        yield recipe.layout.ranks
    elif isinstance(recipe, ByRank):
        yield len(recipe.values)
    for part in parts_of(recipe):
        yield from _counts(part)
