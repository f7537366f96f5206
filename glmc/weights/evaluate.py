"""Evaluate a recipe whole, in memory: for tests, verification and small models.

The packer streams instead; both must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glmc.errors import InternalError
from glmc.ir.layout import Run
from glmc.ir.ops.rotary import rope_table
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


def evaluate(weight: Weight, read: Callable[[str], Tensor]) -> Tensor:
    """The tensor of a weight; ``read`` gives a parameter by its qualified name."""
    return _value(weight.recipe, read).to(weight.dtype).reshape(weight.shape).contiguous()


def _value(recipe: Recipe, read: Callable[[str], Tensor]) -> Tensor:
    if isinstance(recipe, Source):
        return read(recipe.name)
    if isinstance(recipe, Concatenate):
        return torch.cat([_value(part, read) for part in recipe.parts])
    if isinstance(recipe, Stack):
        return torch.stack([_value(part, read) for part in recipe.parts])
    if isinstance(recipe, Constant):
        return torch.tensor(recipe.values, dtype=torch.float64)
    if isinstance(recipe, Zeros):
        return torch.zeros(recipe.shape)
    if isinstance(recipe, Selected):
        return entries_of(_value(recipe.recipe, read), recipe.axis, recipe.runs)
    if isinstance(recipe, RopeTable):
        return rope_rows(recipe)
    raise InternalError("a recipe of all ranks has no one value", found=type(recipe).__name__)


def entries_of(whole: Tensor, axis: int, runs: Sequence[Run]) -> Tensor:
    """The runs of entries of ``axis``, one after the other; a run without a start is of zeros."""
    shape = list(whole.shape)
    parts = []
    for start, length in runs:
        if start is None:
            shape[axis] = length
            parts.append(whole.new_zeros(shape))
        else:
            parts.append(whole.narrow(axis, start, length))
    return torch.cat(parts, axis)


def rope_rows(table: RopeTable, begin: int = 0, end: int | None = None) -> Tensor:
    """float32 [end - begin, rotary_dim]: the cosines of all pairs, then the sines."""
    frequencies = torch.tensor(table.inverse_frequencies, dtype=torch.float64).float()
    positions = torch.arange(begin, table.rows if end is None else end)
    return torch.cat(rope_table(positions, frequencies, table.scaling, torch.float32), -1)
