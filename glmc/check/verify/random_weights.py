"""Random weights of full width in the memory of the largest matrix.

Every matrix is a window of one pool of normal numbers, at an offset of its own. Experts are
windows that begin ``STEP`` numbers apart, so that all of them differ and 160 take the memory of
one.
Nothing is drawn twice alike: the same name and seed give the same values.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from glmc.errors import CheckpointError
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import CORRECTION_BIAS, parameter_shapes

STEP = 17
_OFFSETS = 1 << 16


class RandomPool:
    """A :class:`~glmc.weights.source.WeightSource`; :meth:`parameter` gives a view of the pool.

    Matrices deviate by 1 / sqrt(hidden), so that values stay near 1; norms by 0.1 around 1, biases
    by 0.1 around 0. Values are rounded to ``rounded`` and stored as ``dtype``.
    """

    def __init__(
        self, fields: ModelFields, dtype: torch.dtype, rounded: torch.dtype, seed: int = 0
    ) -> None:
        self._shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(fields)
        self._tied = fields.tie_word_embeddings
        self._dtype, self._rounded, self._seed = dtype, rounded, seed
        span = max(_span(shape) for shape in self._shapes.values())
        self._pool = self._normal("pool", span + _OFFSETS, fields.hidden_size**-0.5)

    @property
    def description(self) -> str:
        return f"random weights, seed {self._seed}"

    def shape(self, name: str) -> tuple[int, ...]:
        name = self._known(name)
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name.endswith(CORRECTION_BIAS) else self._dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        return self.parameter(name).flatten()[begin : begin + count].clone()

    def parameter(self, name: str) -> Tensor:
        """The whole parameter; not to be written to."""
        name = self._known(name)
        shape = self._shapes[name]
        if len(shape) == 1:
            mean = 1.0 if "norm" in name else 0.0
            return self._normal(name, shape[0], 0.1, mean).to(self.dtype(name))
        offset = zlib.crc32(name.encode()) % _OFFSETS
        strides = (shape[-1], 1) if len(shape) == 2 else (STEP, shape[-1], 1)
        return self._pool.as_strided(shape, strides, offset)

    def _known(self, name: str) -> str:
        if self._tied and name == "lm_head.weight":
            return "model.embed_tokens.weight"
        if name not in self._shapes:
            raise CheckpointError(f"the model has no parameter '{name}'")
        return name

    def _normal(self, name: str, count: int, deviation: float, mean: float = 0.0) -> Tensor:
        seed = zlib.crc32(f"{self._seed}/{name}".encode())
        generator = torch.Generator().manual_seed(seed)
        pool = torch.empty(count, dtype=self._dtype)
        for begin, size in _chunks(count):
            values = torch.empty(size).normal_(mean, deviation, generator=generator)
            pool[begin : begin + size] = values.to(self._rounded)
        return pool


def scaled(value: Tensor, factor: float) -> Tensor:
    """``value * factor`` in the memory of what is under the value."""
    if value.is_contiguous():
        return value * factor
    whole = value.as_strided((_span(tuple(value.shape)),), (1,), value.storage_offset())
    return (whole * factor).as_strided(value.shape, value.stride(), 0)


def _span(shape: tuple[int, ...]) -> int:
    """Numbers of the pool that a parameter shares."""
    if len(shape) < 3:
        return prod(shape)
    return STEP * (shape[0] - 1) + prod(shape[1:])


def _chunks(count: int, size: int = 1 << 22) -> Iterator[tuple[int, int]]:
    return ((begin, min(size, count - begin)) for begin in range(0, count, size))
