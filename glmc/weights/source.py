"""Where weights come from: the one interface of checkpoints and of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class WeightSource(Protocol):
    """Parameters by the name of the traced module, read in flat pieces.

    ``description`` names the origin in messages and reports.
    """

    @property
    def description(self) -> str: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter; raises CheckpointError for an unknown name."""

    def dtype(self, name: str) -> torch.dtype:
        """Dtype in which :meth:`read` returns the parameter."""

    def read(self, name: str, begin: int, count: int) -> Tensor:
        """Elements ``begin : begin + count`` in row-major order, [count], new memory each time."""


@dataclass(frozen=True)
class FileRange:
    """``size`` bytes of a file from ``begin`` on: elements of ``tensor`` as ``dtype`` has them."""

    path: Path
    begin: int
    size: int
    dtype: torch.dtype
    tensor: str

    def __len__(self) -> int:
        """Elements."""
        return self.size // self.dtype.itemsize

    def split(self, count: int) -> Iterator[FileRange]:
        """The same as ranges of at most ``count`` elements."""
        step = count * self.dtype.itemsize
        for offset in range(0, self.size, step):
            size = min(step, self.size - offset)
            yield replace(self, begin=self.begin + offset, size=size)


@runtime_checkable
class StoredWeights(WeightSource, Protocol):
    """A source whose parameters lie in files, from which bytes can be copied as they are."""

    def ranges(self, name: str, begin: int, count: int) -> list[FileRange]:
        """Where elements ``begin : begin + count`` lie, in row-major order."""
