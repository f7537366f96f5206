"""Sequences of several lengths, run one at a time, as one record: their rows follow each other.

A tensor's axis of tokens is the one whose size differs between two runs of two lengths, so a run of
another length than all prompts comes first and its shapes are kept. What has no such axis, such as
a mask or the tokens of one expert, can't be joined and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from glmc_runtime.format.tensor_key import PARAMS, TensorKey
from glmc_runtime.record.sink import Part, Sink

Shapes = dict[tuple[int, TensorKey], tuple[int, ...]]


class ShapeSink:
    """Keeps the shape of each tensor, by step and key."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}
        self._step = 0

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        self._step = step

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        self.shapes |= {(self._step, key): tuple(tensor.shape) for key in keys}

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        shape = self.shapes.get((step, written))
        if shape is not None:
            self.shapes[self._step, key] = shape

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Nothing is kept of it."""


class PackedSink:
    """Gives the tensors of one sequence after the other to ``sink``; ``sequence`` is whose they
    are. ``left_out`` are the names that could not be joined."""

    def __init__(self, sink: Sink, lengths: Sequence[int], probed: Shapes, probe: int) -> None:
        self.sequence = 0
        self.left_out: dict[str, None] = {}
        self._sink, self._probed, self._probe = sink, probed, probe
        self._lengths: tuple[int, ...] = tuple(lengths)
        self._step = 0
        self._written: set[TensorKey] = set()

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        self._step, self._lengths = step, tuple(lengths)
        self._written.clear()
        self._sink.begin(step, lengths)

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        first = keys[0]
        if first.kind == PARAMS:
            if self.sequence == 0:
                self._written.update(keys)
                self._sink.write(keys, tensor, facts)
            return
        place = self._part(first, tensor)
        if place is None or (self.sequence and first not in self._written):
            self.left_out[str(first)] = None
            return
        self._written.update(keys)
        self._sink.write(keys, tensor, facts, place)

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        if self.sequence:
            return  # the first sequence has named it
        if step == self._step and written not in self._written:
            self.left_out[str(key)] = None
            return
        self._written.add(key)
        self._sink.link(key, step, written)

    def describe(self, facts: Mapping[str, Any]) -> None:
        self._sink.describe(facts)

    def _part(self, key: TensorKey, tensor: Tensor) -> Part | None:
        """Where the tensor of a sequence is in that of all."""
        shape = tuple(tensor.shape)
        probed = self._probed.get((min(self._step, 1), key))
        if probed is None or len(probed) != len(shape):
            return None
        if self._step:  # a token each: one row of a batch
            joins = bool(shape) and shape == probed and shape[0] == 1
            return Part(0, self.sequence, len(self._lengths)) if joins else None
        length = self._lengths[self.sequence]
        axes = [axis for axis, size in enumerate(shape) if size != probed[axis]]
        if len(axes) != 1 or (shape[axes[0]], probed[axes[0]]) != (length, self._probe):
            return None
        return Part(axes[0], ([0, *accumulate(self._lengths)])[self.sequence], sum(self._lengths))
