"""The arena: one block of device memory that holds every temporary of every phase."""

from __future__ import annotations

import os
import sys
from math import prod

import torch

from glmc_runtime.errors import CapacityError, PlanError


class Arena:
    """``size`` bytes, zeroed once so that padded rows never read NaN from fresh memory."""

    def __init__(self, size: int, device: torch.device) -> None:
        if device.type == "cpu" and size > machine_memory():
            raise self._too_large(size, device)
        try:
            self.memory = torch.zeros(max(size, 1), dtype=torch.uint8, device=device)
        except (RuntimeError, TypeError) as error:  # TypeError: beyond 64 bits
            raise self._too_large(size, device) from error

    @staticmethod
    def _too_large(size: int, device: torch.device) -> CapacityError:
        return CapacityError(
            "the arena does not fit into memory",
            expected=f"{size} bytes",
            place=str(device),
            remedy="compile with a smaller largest prefill or decode bucket",
        )

    @property
    def size(self) -> int:
        return self.memory.numel()

    def view(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """A contiguous tensor ``offset`` bytes into the arena; it owns no memory of its own."""
        itemsize = dtype.itemsize
        length = prod(shape) * itemsize
        if offset % itemsize or offset < 0 or offset + length > self.size:
            raise PlanError(
                "a buffer is outside the arena or is not aligned to its dtype",
                expected=f"offset a multiple of {itemsize}, end at most {self.size}",
                found=f"offset {offset}, end {offset + length}",
                remedy="compile the model again",
            )
        return self.memory[offset : offset + length].view(dtype).view(shape)


def machine_memory() -> int:
    """Bytes of this machine. More can be promised but not given: whoever fills it is killed."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
