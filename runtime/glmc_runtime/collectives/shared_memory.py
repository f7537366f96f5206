"""Memory that all ranks of one host map: two slots for each rank's message, and a counter each.

It has no name: rank 0 makes an anonymous file and the others open it through its process, so
nothing is left behind however a rank ends. Uses take the slots in turn. A rank overwrites a slot
two uses later: all ranks have met in the use between, which nobody does before having read.

Ranks meet by counters. These are plain stores after the data and plain loads before it, which a
processor of the x86 family keeps in order; on others, ranks meet by messages of the process group.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from glmc_runtime.collectives.wire import Thunk, Wire, meeting
from glmc_runtime.errors import GuardError, RankError

CAPACITY = 1 << 20
"""Bytes of a slot; longer messages go in pieces."""
_LINE = 64
_YIELDS = 2000
_PAUSE = 50e-6
_ORDERED = ("x86_64", "AMD64")


class SharedMemory:
    """Slots and counters of one group; making it is a collective call. ``limit`` is how many
    seconds a rank waits for another, ``counting`` whether they meet by counters. Raises
    :class:`GuardError` on all ranks alike."""

    def __init__(
        self,
        wire: Wire,
        limit: float,
        capacity: int = CAPACITY,
        counting: bool = platform.machine() in _ORDERED,
    ) -> None:
        self.rank, self.size, self.capacity = wire.rank, wire.size, capacity
        self._turn = self._count = 0
        self._limit = limit
        memory = _mapped(wire, wire.size * (_LINE + 2 * capacity))
        self._counters = memoryview(memory)[: wire.size * _LINE].cast("Q")
        self._own = wire.rank * _LINE // 8
        self._others = [(rank, rank * _LINE // 8) for rank in range(wire.size) if rank != self.rank]
        everything = torch.frombuffer(memory, dtype=torch.uint8)
        self._slots = everything[wire.size * _LINE :].view(2, wire.size, capacity)
        self._rooms: dict[int, Tensor] = {}
        self.meet: Thunk = self._meet if counting else meeting(wire)

    def slot(self, turn: int, rank: int, like: Tensor) -> Tensor:
        """The slot of a rank in uses of even number (0) or odd (1), with the shape of ``like``."""
        return _shaped(self._slots[turn, rank], like)

    def room(self, level: int, like: Tensor) -> Tensor:
        """Work memory of this rank, with the shape of ``like``: one for each level of a tree."""
        if level not in self._rooms:
            self._rooms[level] = torch.empty(self.capacity, dtype=torch.uint8)
        return _shaped(self._rooms[level], like)

    def turn(self) -> int:
        """Which slots the next use takes."""
        self._turn ^= 1
        return self._turn

    def _meet(self) -> None:
        """Count on, and return when all ranks have; raises :class:`RankError` for one that does
        not within the limit."""
        self._count = count = self._count + 1
        counters = self._counters
        counters[self._own] = count
        for rank, place in self._others:
            if counters[place] < count:
                self._wait(rank, place, count)

    def _wait(self, rank: int, place: int, count: int) -> None:
        counters, give_way = self._counters, os.sched_yield
        for _ in range(_YIELDS):
            give_way()
            if counters[place] >= count:
                return
        end = time.monotonic() + self._limit
        while counters[place] < count:
            time.sleep(_PAUSE)
            if time.monotonic() > end:
                raise RankError(
                    f"rank {rank} does not answer",
                    place="an all-reduce in shared memory",
                    expected=f"its message within {self._limit:g} s",
                    found=f"its message before: it is {count - counters[place]} behind",
                )


def _shaped(memory: Tensor, like: Tensor) -> Tensor:
    return memory[: like.numel() * like.element_size()].view(like.dtype).view(like.shape)


def _mapped(wire: Wire, size: int) -> mmap.mmap:
    """The same ``size`` bytes in all ranks."""
    descriptor, problem = -1, _refusal()
    try:
        if wire.rank == 0 and not problem:
            try:
                descriptor = os.memfd_create("glmc-collectives")
                os.ftruncate(descriptor, size)
            except OSError as error:
                problem = f"rank 0 can't make any: {error.strerror or error}"
        offers = _gathered(wire, [os.getpid(), descriptor, _host(), bool(problem)])
        if any(row[3] for row in offers):
            raise _refused(problem or "another rank can't")
        strangers = [rank for rank, row in enumerate(offers) if row[2] != offers[0][2]]
        if strangers:
            raise _refused(f"rank {strangers[0]} is in another host or container than rank 0")
        memory: mmap.mmap | None = None
        try:
            memory = _map(descriptor, offers[0][0], offers[0][1], size)
        except (OSError, ValueError) as error:
            problem = f"rank {wire.rank} can't map the memory of rank 0: {error}"
        failed = [rank for rank, row in enumerate(_gathered(wire, [memory is None])) if row[0]]
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if memory is None or failed:
        raise _refused(problem or f"rank {failed[0]} can't map the memory of rank 0")
    return memory


def _map(descriptor: int, owner: int, number: int, size: int) -> mmap.mmap:
    if descriptor >= 0:
        return mmap.mmap(descriptor, size)
    opened = os.open(f"/proc/{owner}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_size != size:
            raise OSError("it has another size")
        return mmap.mmap(opened, size)
    finally:
        os.close(opened)


def _refusal() -> str:
    """Why this machine can't; empty where it can."""
    if not hasattr(os, "memfd_create"):
        return f"{platform.system()} has no anonymous files"
    return ""


def _host() -> int:
    """The same for processes that can open each other's files, as far as it can be told."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        text = f"{boot.read_text()} {os.stat('/proc/self/ns/pid').st_ino} {os.getuid()}"
    except OSError:
        text = platform.node()
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _gathered(wire: Wire, values: list[int]) -> list[list[int]]:
    """The values of each rank."""
    with torch.inference_mode(False):  # gloo's thread may write to no inference tensor (torch 2.5)
        own = torch.tensor(values, dtype=torch.int64)
        rows = [torch.empty_like(own) for _ in range(wire.size)]
    wire.process_group.allgather([rows], [own]).wait()
    return [row.tolist() for row in rows]


def _refused(reason: str) -> GuardError:
    return GuardError(
        f"the ranks can't share memory: {reason}",
        place="an all-reduce in shared memory (one_shot, two_shot)",
        expected="Linux, and all ranks as one user in one host and container",
        remedy="take another algorithm: measure a table by 'glmc-runtime tune-collectives' there",
    )
