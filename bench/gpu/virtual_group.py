"""Virtual ranks: the memories of several ranks on one device, and a stream for each of them.

All kernels of a use must be resident together, as each waits for the others. On a GPU the ranks
run at once, each on its own stream, so that ``programs`` bounds their number. Triton's interpreter
runs one program after another, which must not wait: there the flags are set far ahead and all
ranks run several times, so that the last time finds what the others wrote before. That shows the
values and the addresses, and nothing of the waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.kernels.cuda.collectives.peers import (
    PROGRAMS,
    PeerMemory,
    flag_bytes,
    memory_bytes,
    new_state,
)
from glmc_runtime.kernels.cuda.launch import multiprocessors

Thunk = Callable[[], Any]
Steps = Sequence[Sequence[Thunk]]
"""Those of each rank, as many on all of them."""
_FAR = 1 << 40
_PHASES = 3
_PAUSE = 1e-3


def resident_programs(ranks: int, device: torch.device) -> int:
    """Programs of a rank's kernel, so that those of all ranks have half of the multiprocessors; the
    other half is for kernels that start early (programmatic dependent launch)."""
    return max(1, min(PROGRAMS, multiprocessors(device) // (2 * ranks)))


class VirtualGroup:
    """Ranks of one process. ``peers`` is what each rank knows."""

    def __init__(self, ranks: int, device: torch.device, programs: int, capacity: int) -> None:
        self.size, self.device = ranks, device
        self._flags = flag_bytes(ranks, programs)
        length = memory_bytes(ranks, programs, capacity)
        self._memories = [
            torch.zeros(length, dtype=torch.uint8, device=device) for _ in range(ranks)
        ]
        addresses = tuple(memory.data_ptr() for memory in self._memories)
        self.peers = [
            PeerMemory(rank, addresses, new_state(device), programs, capacity)
            for rank in range(ranks)
        ]
        self._streams = [torch.cuda.Stream() for _ in range(ranks if device.type == "cuda" else 0)]
        self._ends = [torch.cuda.Event() for _ in self._streams]
        self.wait_all()

    def on(self, rank: int) -> Any:
        """Inside, kernels are launched on the stream of a rank."""
        return torch.cuda.stream(self._streams[rank]) if self._streams else nullcontext()

    def stream(self, rank: int) -> Any:
        return self._streams[rank]

    def restart(self, ahead: int = 0) -> None:
        """As before the first use, with flags that far ``ahead``; no rank may be at work."""
        for memory, peer in zip(self._memories, self.peers, strict=True):
            memory[: self._flags].view(torch.int64).fill_(ahead)
            peer.state.copy_(torch.zeros(2, dtype=torch.int64))
        self.wait_all()

    @contextmanager
    def unwaiting(self) -> Iterator[None]:
        """Inside, no rank waits for another: a rank can run alone. The uses count anew after."""
        self.restart(ahead=_FAR)
        try:
            yield
        finally:
            self.wait_all()
            self.restart()

    def poison(self) -> None:
        """Fill all slots with NaN; no rank may be at work."""
        for memory in self._memories:
            memory[self._flags :].fill_(0xFF)
        self.wait_all()

    def warm(self, steps: Steps) -> None:
        """Run the steps of each rank alone once: a kernel that is loaded while another waits
        could wait for that one."""
        with self.unwaiting():
            for rank, thunks in enumerate(steps):
                with self.on(rank):
                    for thunk in thunks:
                        thunk()
                self.wait_all()

    def run(self, steps: Steps, parts: Sequence[Tensor], limit: float = 30.0) -> bool:
        """Run the steps of each rank; whether all have ended within ``limit`` seconds. ``parts``
        are what they read and write in place: without a GPU a step is run again over these."""
        if self._streams:
            for rank, thunks in enumerate(steps):
                with self.on(rank):
                    for thunk in thunks:
                        thunk()
            return self.ended(limit)
        for step in zip(*steps, strict=True):
            kept = [part.clone() for part in parts]
            for _ in range(_PHASES):
                for part, one in zip(parts, kept, strict=True):
                    part.copy_(one)
                self.restart(ahead=_FAR)
                for thunk in step:
                    thunk()
        return True

    def ended(self, limit: float) -> bool:
        """Whether all streams are done within ``limit`` seconds."""
        for event, stream in zip(self._ends, self._streams, strict=True):
            event.record(stream)
        end = time.monotonic() + limit
        while not all(event.query() for event in self._ends):
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE)
        return True

    def uses(self) -> list[int]:
        """How many uses each rank has had, also while ranks wait."""
        return [int(peer.state[0]) for peer in self.peers]

    def wait_all(self) -> None:
        if self._streams:
            torch.cuda.synchronize(self.device)


def bits(x: Tensor) -> Tensor:
    """The bits of a tensor as integers."""
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
