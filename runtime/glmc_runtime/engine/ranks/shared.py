"""The logits of rank 0 in memory that controller and rank share.

It has no name anywhere, so nothing is left of it once both are gone.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from math import prod

import torch

from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan


class SharedLogits:
    """Room for the logits of the largest step of any phase, in the memory of ``descriptor``."""

    def __init__(
        self, manifest: Manifest, plans: Mapping[PhaseKey, PhasePlan], descriptor: int
    ) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        size = 1
        for key, entry in manifest.phases_of(0).items():
            plan = plans[key]
            buffer = next(each for each in plan.buffers if each.id == plan.output)
            shape = tuple(extent.evaluate(entry.largest) for extent in buffer.shape)
            dtype = dtype_of(buffer.dtype)
            self._shapes[entry.phase] = shape, dtype
            size = max(size, prod(shape) * dtype.itemsize)
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._memory = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)

    def rows(self, phase: str, count: int) -> torch.Tensor:
        """The first rows of the logits of a phase."""
        shape, dtype = self._shapes[phase]
        size = prod(shape[1:]) * dtype.itemsize * count
        return self._memory[:size].view(dtype).view(count, *shape[1:])


def phases_of(manifest: Manifest) -> list[str]:
    """The phases in the order by which messages number them."""
    return sorted({entry.phase for entry in manifest.phases})
