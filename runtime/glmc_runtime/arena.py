"""The arena: one block of device memory that holds every temporary of every phase."""

from __future__ import annotations

from math import prod

import torch

from glmc_runtime.errors import CapacityError, PlanError


class Arena:
    """``size`` bytes, zeroed once so that padded rows never read NaN from fresh memory."""

    def __init__(self, size: int, device: torch.device) -> None:
        try:
            self.memory = torch.zeros(max(size, 1), dtype=torch.uint8, device=device)
        except (RuntimeError, TypeError) as error:  # TypeError: beyond 64 bits
            raise CapacityError(
                "the arena does not fit into memory",
                expected=f"{size} bytes",
                place=str(device),
                remedy="compile with a smaller largest prefill or decode bucket",
            ) from error

    @property
    def size(self) -> int:
        return self.memory.numel()

    def view(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """A contiguous tensor ``offset`` bytes into the arena; it owns no memory of its own."""
        itemsize = dtype.itemsize
        length = prod(shape) * itemsize
        if offset % itemsize or offset < 0 or offset + length > self.size:
            raise PlanError(
                "a buffer lies outside the arena or is not aligned to its dtype",
                expected=f"offset a multiple of {itemsize}, end at most {self.size}",
                found=f"offset {offset}, end {offset + length}",
                remedy="compile the model again",
            )
        return self.memory[offset : offset + length].view(dtype).view(shape)
