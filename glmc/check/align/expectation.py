"""What a reference says that the values of a step must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from glmc.check.align.layout import common_layout, rows_of
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.format.values import PlanValue
from glmc_runtime.replay.step import Step

Shape = tuple[int, ...]
Find = Callable[["str | None", "Sequence[TensorKey]", Shape], "Tensor | None"]
"""A tensor of a shape by the id of a captured node or by the keys that it has."""


class Expectation(Protocol):
    """The values of a reference, as those of a plan read. ``times``: how much further off than our
    ops in its dtype they may be, where it rounds at other places and between what it has."""

    @property
    def times(self) -> float: ...
    @property
    def label(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    def begin(self, number: int, step: Step) -> None:
        """Which step is asked for from now on."""

    def value(self, value: PlanValue, shape: Shape) -> Tensor | None:
        """A value of the step, of that shape and with its rows; None where the reference does not
        have it."""


class ItsOwnProgram:
    """No reference but the program that the plan was made of."""

    label = "the program that the plan was made of"
    times = 1.0
    facts: Mapping[str, Any] = MappingProxyType({})

    def begin(self, number: int, step: Step) -> None:
        pass

    def value(self, value: PlanValue, shape: Shape) -> Tensor | None:
        return None


def in_shape(tensor: Tensor, shape: Shape, lengths: Sequence[int]) -> Tensor | None:
    """A tensor of a reference in the shape of ours, with its rows; ``lengths`` are the tokens of
    the step's sequences. None where it is not the same tensor."""
    layout = common_layout(tuple(tensor.shape), shape, lengths)
    if layout is None or layout.actual.numbers is not None:
        return None
    rows, _ = rows_of(tensor, tuple(tensor.shape), None, layout.expected, layout.width)
    return rows.reshape(shape) if rows.numel() == prod(shape) else None


def with_parts(value: PlanValue, shape: Shape, find: Find) -> Tensor | None:
    """A value by what it is, or put together of columns that are values of the reference, which has
    no shares of ranks."""
    if value.dealt is not None:
        return None
    whole = find(value.captured, value.keys, shape)
    if whole is not None or not value.parts:
        return whole
    columns, end = [], 0
    for part in value.parts:
        width = part.stop - part.start
        found = find(part.captured, part.keys, (*shape[:-1], width)) if part.start == end else None
        if found is None:
            return None
        columns.append(found)
        end = part.stop
    return torch.cat(columns, -1) if end == shape[-1] else None
