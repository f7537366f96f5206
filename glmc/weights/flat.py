"""Any stretch of the elements of a recipe, in row-major order, in bounded pieces.

Concatenating and stacking along dimension 0 is appending in row-major order, and a selection is a
row of stretches of what it selects from. So no recipe needs more than one piece in memory, and
where the checkpoint has the weight's dtype none at all: the piece is a range of its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Union

import torch
from torch import Tensor

from glmc.errors import CheckpointError, InternalError, PackError
from glmc.ir.layout import Run
from glmc.ir.recipe import (
    ByRank,
    Concatenate,
    Constant,
    Dealt,
    First,
    Recipe,
    RopeTable,
    Selected,
    Source,
    Stack,
    Zeros,
)
from glmc.weights.evaluate import rope_rows
from glmc.weights.file_ranges import read_range
from glmc.weights.source import FileRange, StoredWeights, WeightSource

CHUNK_BYTES = 16 << 20
"""As much is made at a time; the memory of more would not be used again for the next piece."""
# Shorter stretches of a file are not copied one by one: the rows that they are of are read whole.
_SHORT_BYTES = 64 << 10

Data = Union[Tensor, FileRange]
"""Elements in memory, flat, or where they lie in a file."""


@dataclass(frozen=True)
class FlatReader:
    """Reads what recipes of the weight ``name`` make, cast to its ``dtype``.

    No tensor has more than ``chunk_bytes``, neither in this dtype nor as the source stores it.
    """

    name: str
    dtype: torch.dtype
    source: WeightSource
    chunk_bytes: int = CHUNK_BYTES

    def pieces(self, recipe: Recipe, begin: int = 0, count: int | None = None) -> Iterator[Data]:
        """Elements ``begin : begin + count``, all unless said otherwise; raises
        :class:`CheckpointError` when the source holds another shape or an overflow."""
        end = prod(recipe_shape(recipe)) if count is None else begin + count
        if isinstance(recipe, (Concatenate, Stack)):
            at = 0
            for part in recipe.parts:
                size = prod(recipe_shape(part))
                low, high = max(begin - at, 0), min(end - at, size)
                if low < high:
                    yield from self.pieces(part, low, high - low)
                at += size
        elif isinstance(recipe, Selected):
            yield from self._selected(recipe, begin, end)
        elif isinstance(recipe, Source):
            yield from self._source(recipe, begin, end)
        elif isinstance(recipe, RopeTable):
            yield from self._rope(recipe, begin, end)
        elif isinstance(recipe, Constant):
            yield self._cast(torch.tensor(recipe.values, dtype=torch.float64)[begin:end])
        elif isinstance(recipe, Zeros):
            yield from self._zeros(end - begin)
        else:
            raise InternalError("a recipe of all ranks has no one value", found=str(type(recipe)))

    def tensor(self, recipe: Recipe, begin: int, count: int) -> Tensor:
        """The same as one tensor in memory."""
        result = torch.empty(count, dtype=self.dtype)
        at = 0
        for piece in self.pieces(recipe, begin, count):
            at += load(piece, result[at:])
        return result

    def rows(
        self, recipe: Recipe, axis: int, selections: Sequence[Sequence[Run]], first: int, last: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Selections along ``axis`` out of rows ``first : last`` of a value, each read once; a row
        is all that has one index before the axis. Yields the number of a selection and a part of
        it, flat."""
        shape = recipe_shape(recipe)
        entries, inner = shape[axis], prod(shape[axis + 1 :])
        row = entries * inner
        step = max(1, self._step // max(1, row))
        for begin in range(first, last, step):
            count = min(step, last - begin)
            whole = self.tensor(recipe, begin * row, count * row).view(count, entries, inner)
            for number, runs in enumerate(selections):
                yield number, _gathered(whole, runs)

    def by_rows(self, recipe: Recipe, axis: int, selections: Sequence[Sequence[Run]]) -> bool:
        """Whether a row fits into memory and is better read whole than stretch by stretch: random
        weights are drawn in blocks, and a file is not read in scraps."""
        shape = recipe_shape(recipe)
        inner = prod(shape[axis + 1 :])
        fits = 0 < shape[axis] * inner <= self._step
        lengths = [run.length for runs in selections for run in runs if run.start is not None]
        short = min(lengths, default=0) * inner * self.dtype.itemsize < _SHORT_BYTES
        return fits and (short or not isinstance(self.source, StoredWeights))

    @property
    def _step(self) -> int:
        return max(1, self.chunk_bytes // self.dtype.itemsize)

    def _selected(self, recipe: Selected, begin: int, end: int) -> Iterator[Data]:
        inside, axis, runs = recipe.recipe, recipe.axis, recipe.runs
        shape = recipe_shape(inside)
        inner = prod(shape[axis + 1 :])
        row = sum(run.length for run in runs) * inner
        if not row:
            return
        if begin % row == end % row == 0 and self.by_rows(inside, axis, (runs,)):
            yield from (
                part for _, part in self.rows(inside, axis, (runs,), begin // row, end // row)
            )
            return
        for number in range(begin // row, -(-end // row)):
            at = number * row
            for start, length in runs:
                low, high = max(begin, at), min(end, at + length * inner)
                if low < high and start is None:
                    yield from self._zeros(high - low)
                elif low < high:
                    first = (number * shape[axis] + (start or 0)) * inner
                    yield from self.pieces(inside, first + low - at, high - low)
                at += length * inner

    def _source(self, recipe: Source, begin: int, end: int) -> Iterator[Data]:
        source, shape = self.source, self.source.shape(recipe.name)
        if shape != recipe.shape:
            raise CheckpointError(
                f"'{recipe.name}' has another shape than in the traced model",
                place=source.description,
                expected=str(list(recipe.shape)),
                found=str(list(shape)),
                remedy="compile with the config.json that belongs to the checkpoint",
            )
        if isinstance(source, StoredWeights):
            ranges = source.ranges(recipe.name, begin, end - begin)
            if all(each.dtype == self.dtype for each in ranges):
                for each in ranges:
                    yield from each.split(self._step)
                return
        size = max(self.dtype.itemsize, source.dtype(recipe.name).itemsize)
        step = max(1, self.chunk_bytes // size)
        for first in range(begin, end, step):
            yield self._cast(source.read(recipe.name, first, min(step, end - first)))

    def _rope(self, recipe: RopeTable, begin: int, end: int) -> Iterator[Tensor]:
        # Angles, cosines, sines and their row exist at once, all in float32.
        width = 2 * len(recipe.inverse_frequencies)
        step = max(1, self.chunk_bytes // max(1, 2 * 4 * width))
        last = -(-end // width) if width else 0
        for first in range(begin // width if width else 0, last, step):
            until = min(first + step, last)
            low, high = max(begin, first * width), min(end, until * width)
            rows = rope_rows(recipe, first, until).flatten()
            yield self._cast(rows[low - first * width : high - first * width])

    def _zeros(self, count: int) -> Iterator[Tensor]:
        zeros = torch.zeros(min(count, self._step), dtype=self.dtype)
        for begin in range(0, count, self._step):
            yield zeros[: count - begin]

    def _cast(self, piece: Tensor) -> Tensor:
        result = piece.to(self.dtype)
        narrows = self.dtype == torch.float16 and piece.dtype != torch.float16
        if narrows and not torch.equal(result.isfinite(), piece.isfinite()):
            raise CheckpointError(
                f"values of weight '{self.name}' are too large for float16",
                expected="magnitudes up to 65504",
                found=f"{float(piece[piece.isfinite()].abs().max()):g}",
                remedy="compile with --dtype bfloat16 or float32",
            )
        return result


def recipe_shape(recipe: Recipe) -> tuple[int, ...]:
    """Shape of what a recipe makes, on each rank; raises :class:`PackError` for parts that do not
    fit."""
    if isinstance(recipe, (Source, Zeros, First)):
        return recipe.shape
    if isinstance(recipe, Constant):
        return (len(recipe.values),)
    if isinstance(recipe, ByRank):
        return (1,)
    if isinstance(recipe, RopeTable):
        return (recipe.rows, 2 * len(recipe.inverse_frequencies))
    if isinstance(recipe, Selected):
        return _replaced(recipe.recipe, recipe.axis, sum(run.length for run in recipe.runs))
    if isinstance(recipe, Dealt):
        return _replaced(recipe.recipe, recipe.axis, recipe.layout.local)
    shapes = [recipe_shape(part) for part in recipe.parts]
    inner = [shape if isinstance(recipe, Stack) else shape[1:] for shape in shapes]
    if not shapes or any(shape != inner[0] for shape in inner):
        raise PackError(
            f"a {type(recipe).__name__} has parts that do not fit",
            found=", ".join(map(str, shapes)) or "no parts",
            remedy="report this: a pass made a wrong recipe",
        )
    rows = len(shapes) if isinstance(recipe, Stack) else sum(shape[0] for shape in shapes)
    return (rows, *inner[0])


def load(piece: Data, target: Tensor) -> int:
    """Put a piece at the begin of a flat tensor of its dtype; returns its elements."""
    if isinstance(piece, FileRange):
        read_range(piece, target[: len(piece)].view(torch.uint8).numpy().data)
    else:
        target[: len(piece)] = piece
    return len(piece)


def _replaced(recipe: Recipe, axis: int, size: int) -> tuple[int, ...]:
    shape = recipe_shape(recipe)
    return (*shape[:axis], size, *shape[axis + 1 :])


def _gathered(whole: Tensor, runs: Sequence[Run]) -> Tensor:
    """Flat copies of runs of dimension 1, side by side."""
    rows, _, inner = whole.shape
    parts = [
        whole.new_zeros(rows, length, inner) if start is None else whole.narrow(1, start, length)
        for start, length in runs
    ]
    return (parts[0].clone() if len(parts) == 1 else torch.cat(parts, 1)).flatten()
