"""Where weights come from: the one interface of checkpoints and of random weights."""

from __future__ import annotations

from typing import Protocol

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
