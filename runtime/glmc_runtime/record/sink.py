"""What takes the tensors of a run as it computes them, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from glmc_runtime.format.tensor_key import TensorKey


@dataclass(frozen=True)
class Part:
    """A tensor is a part of the recorded one: from ``begin`` on along ``axis``, of ``size`` there.

    Sequences of several lengths run one after the other, and their rows follow each other.
    """

    axis: int
    begin: int
    size: int

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the recorded tensor, by that of a part."""
        return (*shape[: self.axis], self.size, *shape[self.axis + 1 :])


class Sink(Protocol):
    """Of a tensor nothing is kept but what is written: its memory may be used again at once."""

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        """What follows is of this step: 0 is prefill, the others decode. ``lengths`` are the tokens
        that it computes of each sequence."""
        ...

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        """Write a tensor under its first key; the other keys name the same one. A tensor that still
        lacks a part at the end of the step is no tensor of the record."""
        ...

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        """``key`` names the tensor that was written as ``written`` in ``step``."""
        ...

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Facts of the whole record, such as ``made_by``; later ones win."""
        ...
