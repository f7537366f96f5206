"""Bytes of what a kernel call names: weights, and buffers of the arena, each once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from glmc.ir.recipe import Weight
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.plan import (
    Argument,
    Buffer,
    BufferArgument,
    Call,
    ListArgument,
    PhasePlan,
    ViewArgument,
    WeightArgument,
)


@dataclass(frozen=True)
class Operands:
    """What the calls of ``plan`` name, in a step of ``sizes``. Of stacked experts all are counted,
    whichever a step reads; of the cache, which grows with the context, nothing is."""

    plan: PhasePlan
    sizes: Mapping[str, int]
    weights: Mapping[str, Weight]

    def weight_bytes(self, call: Call) -> int:
        """Bytes of the weights of a call, of rows of one where it names no more."""
        named = {each for each in _leaves(call) if isinstance(each, WeightArgument)}
        return sum(map(self._weight, named))

    def buffer_bytes(self, call: Call) -> int:
        """Bytes of the buffers that a call reads and writes."""
        named = {each.buffer for each in _leaves(call) if isinstance(each, BufferArgument)}
        return sum(self.size(self.plan.buffers[number]) for number in named)

    def size(self, buffer: Buffer) -> int:
        """Bytes of a buffer."""
        shape = (extent.evaluate(self.sizes) for extent in buffer.shape)
        return prod(shape) * dtype_of(buffer.dtype).itemsize

    def _weight(self, argument: WeightArgument) -> int:
        weight = self.weights[argument.weight]
        if argument.rows is None:
            return weight.bytes
        first, end = argument.rows
        return weight.bytes // weight.shape[0] * (end - first)


def _leaves(call: Call) -> Iterator[Argument]:
    for argument in call.arguments.values():
        yield from _within(argument)


def _within(argument: Argument) -> Iterator[Argument]:
    if isinstance(argument, ListArgument):
        for item in argument.items:
            yield from _within(item)
    elif isinstance(argument, ViewArgument):
        yield from _within(argument.source)
    else:
        yield argument
