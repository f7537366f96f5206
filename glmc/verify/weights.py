"""The weights that a proof computes with, and cases that change some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from glmc.ir.program import Program
from glmc.weights.evaluate import evaluate
from glmc.weights.recipe import Weight, sources
from glmc.weights.source import WeightSource

Alteration = Callable[[str, Tensor], Tensor]
"""A parameter by name to what a case puts in its place; the tensor itself where it stays."""


@dataclass
class ModelWeights:
    """``read`` gives a parameter by its qualified name. What was made is kept where ``keep``."""

    read: Callable[[str], Tensor]
    keep: bool = True
    alteration: Alteration | None = None
    _made: dict[Weight, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, source: WeightSource) -> ModelWeights:
        """Those of a checkpoint or random ones."""

        def read(name: str) -> Tensor:
            shape = source.shape(name)
            return source.read(name, 0, prod(shape)).reshape(shape)

        return cls(read)

    def altered(self, alteration: Alteration | None) -> ModelWeights:
        """The same weights with some of them changed."""
        if alteration is None:
            return self
        return ModelWeights(self.read, self.keep, alteration)

    def table(self, program: Program) -> Mapping[str, Tensor]:
        """The weights of a program by name, each made when it is asked for."""
        return _Table(self, program)

    def make(self, weight: Weight) -> Tensor:
        """The tensor of a weight."""
        if weight in self._made:
            return self._made[weight]
        value = evaluate(weight, self._parameter)
        if self.keep:
            self._made[weight] = value
        return value

    def reads(self, program: Program) -> set[str]:
        """The parameters that the weights of a program are made of."""
        return {
            source.name for weight in program.weights.values() for source in sources(weight.recipe)
        }

    def _parameter(self, name: str) -> Tensor:
        value = self.read(name)
        return value if self.alteration is None else self.alteration(name, value)


class _Table(Mapping[str, Tensor]):
    def __init__(self, weights: ModelWeights, program: Program) -> None:
        self._weights = weights
        self._recipes = program.weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights.make(self._recipes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)
