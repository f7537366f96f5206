"""Make a packed weight from its recipe as a stream of bounded pieces, in row-major order.

Concatenating and stacking along dimension 0 is appending in row-major order, so no recipe ever
needs more than one piece in memory. :func:`glmc.weights.evaluate.evaluate` makes the same bytes
at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from glmc.errors import CheckpointError, InternalError, PackError
from glmc.ir.recipe import (
    Concatenate,
    Constant,
    Recipe,
    RopeTable,
    Selected,
    Source,
    Stack,
    Weight,
    Zeros,
)
from glmc.weights.evaluate import rope_rows, selected
from glmc.weights.source import WeightSource

CHUNK_BYTES = 64 << 20


def stream_weight(
    weight: Weight, source: WeightSource, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Tensor]:
    """Flat pieces of ``weight.dtype`` that are the weight, each of at most ``chunk_bytes`` (and as
    stored in the source at most that, too). Raises :class:`PackError` when recipe and weight
    disagree and :class:`CheckpointError` when the source holds another shape or an overflow."""
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
    for piece in _pieces(weight.recipe, weight.dtype, source, chunk_bytes):
        yield _cast(piece, weight)


def recipe_shape(recipe: Recipe) -> tuple[int, ...]:
    """Shape of what a recipe makes; raises :class:`PackError` for parts that do not fit."""
    if isinstance(recipe, Source):
        return recipe.shape
    if isinstance(recipe, Constant):
        return (len(recipe.values),)
    if isinstance(recipe, RopeTable):
        return (recipe.rows, 2 * len(recipe.inverse_frequencies))
    if isinstance(recipe, Zeros):
        return recipe.shape
    if isinstance(recipe, Selected):
        whole = list(recipe_shape(recipe.recipe))
        whole[recipe.axis] = sum(length for _, length in recipe.runs)
        return tuple(whole)
    if not isinstance(recipe, (Concatenate, Stack)):
        raise InternalError("a recipe of all ranks is packed", found=type(recipe).__name__)
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


def _pieces(
    recipe: Recipe, dtype: torch.dtype, source: WeightSource, chunk_bytes: int
) -> Iterator[Tensor]:
    if isinstance(recipe, (Concatenate, Stack)):
        for part in recipe.parts:
            yield from _pieces(part, dtype, source, chunk_bytes)
    elif isinstance(recipe, Constant):
        yield torch.tensor(recipe.values, dtype=torch.float64)
    elif isinstance(recipe, RopeTable):
        yield from _rope_pieces(recipe, chunk_bytes)
    elif isinstance(recipe, Zeros):
        yield torch.zeros(prod(recipe.shape))
    elif isinstance(recipe, Selected):
        inner = torch.cat(list(_pieces(recipe.recipe, dtype, source, chunk_bytes)))
        yield selected(inner.view(recipe_shape(recipe.recipe)), recipe).flatten()
    elif not isinstance(recipe, Source):
        raise InternalError("a recipe of all ranks is packed", found=type(recipe).__name__)
    else:
        yield from _source_pieces(recipe, dtype, source, chunk_bytes)


def _source_pieces(
    recipe: Source, dtype: torch.dtype, source: WeightSource, chunk_bytes: int
) -> Iterator[Tensor]:
    shape = source.shape(recipe.name)
    if shape != recipe.shape:
        raise CheckpointError(
            f"'{recipe.name}' has another shape than in the traced model",
            place=source.description,
            expected=str(list(recipe.shape)),
            found=str(list(shape)),
            remedy="compile with the config.json that belongs to the checkpoint",
        )
    total = prod(recipe.shape)
    step = max(1, chunk_bytes // max(dtype.itemsize, source.dtype(recipe.name).itemsize))
    for begin in range(0, total, step):
        yield source.read(recipe.name, begin, min(step, total - begin))


def _rope_pieces(recipe: RopeTable, chunk_bytes: int) -> Iterator[Tensor]:
    # Angles, cosines, sines and their row exist at once, all in float32.
    step = max(1, chunk_bytes // max(1, 2 * 2 * 4 * len(recipe.inverse_frequencies)))
    for begin in range(0, recipe.rows, step):
        yield rope_rows(recipe, begin, min(begin + step, recipe.rows)).flatten()


def _cast(piece: Tensor, weight: Weight) -> Tensor:
    result = piece.to(weight.dtype)
    narrows = weight.dtype == torch.float16 and piece.dtype != torch.float16
    if narrows and not torch.equal(result.isfinite(), piece.isfinite()):
        raise CheckpointError(
            f"values of weight '{weight.name}' are too large for float16",
            expected="magnitudes up to 65504",
            found=f"{float(piece[piece.isfinite()].abs().max()):g}",
            remedy="compile with --dtype bfloat16 or float32",
        )
    return result
