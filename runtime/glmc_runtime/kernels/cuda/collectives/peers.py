"""Memory of all ranks that each of them can read and write: flags, and two slots for messages.

Uses take the slots in turn. A rank overwrites a slot two uses later: it has waited for all ranks in
the use between, and a rank gets there when its kernel of the use before has ended. So one barrier a
use is enough, and replays of a device graph need no reset: flags count uses and only grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.checks import (
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)

CAPACITY = 1 << 22
"""Bytes of a slot; longer messages go in pieces, which changes no element's sum."""
PROGRAMS = 32
"""The most programs of a rank's kernel: all of them must be resident at once on its card."""
PHASES = 2
"""Barriers of a use, at most."""
_FLAG = 8
_ALIGNED = 1024


@dataclass(frozen=True)
class PeerMemory:
    """What rank ``rank`` knows: ``addresses`` of each rank's memory as it sees them, and its own
    ``state``, int64 [uses so far, programs of this use that have ended], which no peer touches.
    ``programs`` and ``capacity`` are the same on all ranks."""

    rank: int
    addresses: tuple[int, ...]
    state: Tensor
    programs: int = PROGRAMS
    capacity: int = CAPACITY

    @property
    def size(self) -> int:
        return len(self.addresses)

    def pieces(self, x: Tensor) -> Sequence[Tensor]:
        """A flat ``x`` in parts that a slot takes; raises :class:`PlanError` for another one."""
        require_shape("x", x, (x.numel(),))
        require_dtype("x", x)
        require_one_device(x, self.state)
        parts: Sequence[Tensor] = x.split(self.capacity // x.element_size())
        return parts

    def arguments(self) -> tuple[Any, ...]:
        """Of every kernel over this memory: ``peers``, ``own``, ``state`` and ``rank``."""
        return self.addresses, self.addresses[self.rank], self.state, self.rank

    def constants(self) -> dict[str, Any]:
        """Of every kernel over this memory, too."""
        return {
            "START": flag_bytes(self.size, self.programs),
            "CAPACITY": self.capacity,
            "PROGRAMS": self.programs,
            "RANKS": self.size,
            "WIDE": power_of_two(self.size),
        }


def flag_bytes(ranks: int, programs: int) -> int:
    """Bytes before the slots: a flag of each rank for each program and barrier."""
    return -(-PHASES * programs * ranks * _FLAG // _ALIGNED) * _ALIGNED


def memory_bytes(ranks: int, programs: int = PROGRAMS, capacity: int = CAPACITY) -> int:
    """Bytes of one rank's memory, which must be zero before the first use of any rank."""
    return flag_bytes(ranks, programs) + 2 * capacity


def new_state(device: torch.device) -> Tensor:
    return torch.zeros(2, dtype=torch.int64, device=device)


def require_slots(capacity: int, tile: int) -> None:
    """Slots begin at, and are read in, multiples of ``tile`` bytes."""
    if capacity <= 0 or capacity % tile:
        raise PlanError(
            "a slot of the memory of peers has not the length that a kernel needs",
            expected=f"a multiple of {tile} bytes",
            found=str(capacity),
        )
