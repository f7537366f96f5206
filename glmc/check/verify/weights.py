"""The weights that a proof computes with, and cases that change some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from glmc.check.verify.random_weights import RandomPool
from glmc.ir.program import Program
from glmc.ir.recipe import Selected, Source, Weight
from glmc.weights.evaluate import evaluate
from glmc.weights.source import WeightSource

Alteration = Callable[[str, Tensor], Tensor]
"""A parameter by name to what a case puts in its place; the tensor itself where it stays."""


@dataclass
class ModelWeights:
    """Weights of programs, from a source and what a case changes of it.

    What was made is kept where ``keep``. It is a :class:`~glmc.weights.source.WeightSource` too.
    """

    source: WeightSource
    keep: bool = True
    alteration: Alteration | None = None
    _made: dict[Weight, Tensor] = field(default_factory=dict)

    @property
    def description(self) -> str:
        return self.source.description

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.source.dtype(name)

    def read(self, name: str, begin: int, count: int) -> Tensor:
        if self.alteration is None:
            return self.source.read(name, begin, count)
        return self._parameter(name).flatten()[begin : begin + count].clone()

    def altered(self, alteration: Alteration | None) -> ModelWeights:
        """The same weights with some of them changed."""
        if alteration is None:
            return self
        return ModelWeights(self.source, self.keep, alteration)

    def table(self, program: Program, rank: int = 0) -> Mapping[str, Tensor]:
        """The weights of a rank of a program by name, each made when it is asked for."""
        return _Table(self, program, rank)

    def make(self, weight: Weight) -> Tensor:
        """The tensor of a weight."""
        if weight in self._made:
            return self._made[weight]
        value = self._whole(weight)
        if value is None:
            value = evaluate(weight, self._parameter)
        if self.keep:
            self._made[weight] = value
        return value

    def _whole(self, weight: Weight) -> Tensor | None:
        """A parameter that is the weight as it is, or a piece of it; no memory is taken for it."""
        recipe = weight.recipe
        piece = recipe if isinstance(recipe, Selected) else None
        whole = recipe if piece is None else piece.recipe
        if not isinstance(whole, Source):
            return None
        value = self._parameter(whole.name)
        if piece is not None:
            start, length = piece.runs[0]
            if len(piece.runs) > 1 or start is None:
                return None
            value = value.narrow(piece.axis, start, length)
        return value if (value.dtype, tuple(value.shape)) == (weight.dtype, weight.shape) else None

    def _parameter(self, name: str) -> Tensor:
        if isinstance(self.source, RandomPool):
            value = self.source.parameter(name)  # no memory of its own
        else:
            shape = self.source.shape(name)
            value = self.source.read(name, 0, prod(shape)).reshape(shape)
        return value if self.alteration is None else self.alteration(name, value)


class _Table(Mapping[str, Tensor]):
    def __init__(self, weights: ModelWeights, program: Program, rank: int) -> None:
        self._weights = weights
        self._recipes = program.weights
        self._rank = rank

    def __getitem__(self, name: str) -> Tensor:
        weight = self._recipes[name]
        return self._weights.make(weight.on(self._rank))

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)
