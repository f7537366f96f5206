"""Range of the weights: every parameter is read once, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from glmc.dtype_choice import FLOAT16_MAX, Magnitude
from glmc.ir.program import Program
from glmc.ir.recipe import Source, sources
from glmc.range_check.magnitude import magnitude_of, outdoes, text_of
from glmc.weights.flat import CHUNK_BYTES
from glmc.weights.source import WeightSource


@dataclass(frozen=True)
class WeightRange:
    """``largest`` is of the ``count`` parameters that would be float16; ``outside`` counts those
    that can't be, the ``worst`` of which may be one that stays float32 and is not finite."""

    count: int
    largest: Magnitude | None
    outside: int
    worst: Magnitude | None


def weight_range(
    program: Program, source: WeightSource, chunk_bytes: int = CHUNK_BYTES
) -> WeightRange:
    """Read all parameters of a program. A weight of another dtype than the program's, such as a
    router's, keeps its dtype and need only be finite."""
    count = outside = 0
    largest, worst = ("", 0.0), ("", 0.0)
    for parameter, dtype in _parameters(program):
        magnitude = 0.0
        for piece in _pieces(parameter, source, chunk_bytes):
            here = magnitude_of(piece)
            magnitude = here if outdoes(here, magnitude) else magnitude
        narrows = dtype == program.dtype
        count += narrows
        if narrows and outdoes(magnitude, largest[1]):
            largest = (parameter.name, magnitude)
        if not magnitude <= (FLOAT16_MAX if narrows else torch.finfo(dtype).max):
            outside += 1
            worst = (parameter.name, magnitude) if outdoes(magnitude, worst[1]) else worst
    return WeightRange(count, _shown(*largest), outside, _shown(*worst))


def _parameters(program: Program) -> Iterator[tuple[Source, torch.dtype]]:
    """Each parameter once, with the dtype of the weight that it is a part of."""
    seen: set[str] = set()
    for weight in program.weights.values():
        for parameter in sources(weight.recipe):
            if parameter.name not in seen and weight.dtype.is_floating_point:
                seen.add(parameter.name)
                yield parameter, weight.dtype


def _pieces(parameter: Source, source: WeightSource, chunk_bytes: int) -> Iterator[torch.Tensor]:
    total = prod(parameter.shape)
    step = max(1, chunk_bytes // source.dtype(parameter.name).itemsize)
    for begin in range(0, total, step):
        yield source.read(parameter.name, begin, min(step, total - begin))


def _shown(name: str, magnitude: float) -> Magnitude | None:
    return Magnitude(name, text_of(magnitude)) if name else None
