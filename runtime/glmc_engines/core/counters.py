"""Counts of what was served, which all processes of one server can read.

A server has several processes: models run in some, and another answers for the metrics. They share
one file in memory, without a name in any folder, so that nothing is left when they are killed. The
process that starts first makes it and tells the others by an environment variable. Each rank writes
a part of its own, which it holds by a lock that ends with it; whoever reads sees numbers of a
moment ago. Two engines of one process have parts of their own, too, and are read as one.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import FileIO

COUNTERS = "GLMC_ENGINE_COUNTERS"
"""Where the memory is, for processes that are started after the first one."""

HELP = {
    "serves": "1 where compiled plans serve the model, 0 where it is left to the engine.",
    "steps": "Steps of the scheduler that came to compiled plans.",
    "tokens": "Tokens that compiled plans have computed.",
    "replays": "Replays of compiled plans, by phase and bucket.",
}
"""What the counts are, by name, for an engine's metrics."""

_LOG = logging.getLogger("glmc.engines")
_SLOT = struct.Struct("<q120s")
_SLOTS = 256
_HEAD = "rank"  # what the first slot of a part that was written is called; its value is the rank
_PART = _SLOT.size * _SLOTS
_PARTS = 64
_SIZE = _PART * _PARTS
_FLOCK = struct.Struct("hhqqi4x")  # of the system: kind, whence, begin, length, process
_keep: list[int] = []
"""Descriptors of the memory that this process has made for others."""


@dataclass(frozen=True)
class Count:
    """One number: ``name`` such as ``replays``, ``labels`` such as phase and bucket."""

    rank: int
    name: str
    labels: tuple[tuple[str, str], ...]
    value: int


@dataclass(frozen=True)
class Part:
    """Memory for the counts of one rank, from ``begin`` on, which is its own while ``file`` is
    open."""

    file: FileIO
    memory: mmap.mmap
    begin: int


@dataclass
class Counters:
    """The counts of one rank; in memory of its own where there is none to share."""

    rank: int = 0
    part: Part | None = None
    _slots: dict[tuple[str, tuple[tuple[str, str], ...]], int] = field(default_factory=dict)
    _values: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of_rank(cls, rank: int) -> Counters:
        """Those of a rank in this process, from zero on, shared if a server has set that up."""
        return cls(rank, _part(os.environ.get(COUNTERS), rank))

    def set(self, name: str, value: int, **labels: str) -> None:
        """Write a count."""
        key = (name, tuple(sorted(labels.items())))
        slot, part = self._slots.get(key), self.part
        if slot is None:
            slot = self._slots[key] = len(self._slots) + 1
            if part is not None and slot < _SLOTS:
                text = "|".join([name, *(f"{label}={text}" for label, text in key[1])]).encode()
                _SLOT.pack_into(part.memory, part.begin + slot * _SLOT.size, value, text[:120])
            elif part is not None and slot == _SLOTS:
                _LOG.warning(
                    "rank %d has more than %d counts: %s and later ones are in no metrics",
                    self.rank,
                    _SLOTS - 1,
                    key,
                )
        self._write(slot, value)

    def setter(self, name: str, **labels: str) -> Callable[[int], None]:
        """What writes one count, for those of each step."""
        self.set(name, 0, **labels)
        return partial(self._write, self._slots[(name, tuple(sorted(labels.items())))])

    def _write(self, slot: int, value: int) -> None:
        part = self.part
        self._values[slot] = value
        if part is not None and slot < _SLOTS:
            struct.pack_into("<q", part.memory, part.begin + slot * _SLOT.size, value)

    def add(self, name: str, number: int = 1, **labels: str) -> None:
        """Add to a count."""
        slot = self._slots.get((name, tuple(sorted(labels.items()))))
        self.set(name, number + (0 if slot is None else self._values[slot]), **labels)

    def get(self, name: str, **labels: str) -> int:
        """The sum of the counts of this name that have these labels, among others."""
        wanted = set(labels.items())
        return sum(
            self._values[slot]
            for (each, has), slot in self._slots.items()
            if each == name and wanted <= set(has)
        )

    def counts(self) -> Iterator[Count]:
        """All counts of this rank."""
        for (name, labels), slot in self._slots.items():
            yield Count(self.rank, name, labels, self._values[slot])


def share_counters() -> None:
    """Make memory for the counts of this server, unless it is there: this process has made it, or
    is one that a server has started through multiprocessing. A program of its own is another
    server, whatever variables it has from the process that ran it."""
    place = os.environ.get(COUNTERS)
    ours = place in {f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in _keep}
    if ours or (place and multiprocessing.parent_process() is not None):
        return
    if not hasattr(os, "memfd_create"):
        return
    descriptor = os.memfd_create("glmc-counters")
    os.ftruncate(descriptor, _SIZE)
    _keep.append(descriptor)
    os.environ[COUNTERS] = f"/proc/{os.getpid()}/fd/{descriptor}"


def shared_counts() -> Iterator[Count]:
    """The counts of all ranks of this server; those of engines that have the same are added up."""
    opened = _opened(os.environ.get(COUNTERS))
    if opened is None:
        return
    file, memory = opened
    with file:
        found: dict[tuple[int, str, tuple[tuple[str, str], ...]], int] = {}
        for begin in range(0, _SIZE, _PART):
            rank = _rank_of(memory, begin)
            if rank is None:
                continue
            for name, labels, value in _counts_of(memory, begin):
                key = (rank, name, labels)
                known = found.get(key, 0)
                found[key] = max(known, value) if name == "serves" else known + value
    for (rank, name, labels), value in found.items():
        yield Count(rank, name, labels, value)


def _counts_of(
    memory: mmap.mmap, begin: int
) -> Iterator[tuple[str, tuple[tuple[str, str], ...], int]]:
    for slot in range(1, _SLOTS):
        value, raw = _SLOT.unpack_from(memory, begin + slot * _SLOT.size)
        text = raw.rstrip(b"\0").decode(errors="replace")
        if not text:
            return
        name, *labels = text.split("|")
        pairs = (one.partition("=") for one in labels)
        yield name, tuple((label, text) for label, _, text in pairs), value


def _part(place: str | None, rank: int) -> Part | None:
    """A part that nobody holds, empty; those that the same rank has left are emptied."""
    opened = _opened(place)
    if opened is None:
        return None
    file, memory = opened
    part: Part | None = None
    for begin in range(0, _SIZE, _PART):
        was = _rank_of(memory, begin)
        free = was == rank or (was is None and part is None)
        if not free or not _locked(file, begin, fcntl.F_WRLCK):
            continue
        memory[begin : begin + _PART] = bytes(_PART)
        if part is None:
            part = Part(file, memory, begin)
            _SLOT.pack_into(memory, begin, rank, _HEAD.encode())
        else:
            _locked(file, begin, fcntl.F_UNLCK)
    if part is None:
        file.close()
        _LOG.warning("counts of this process are in no metrics: %d others have some", _PARTS)
    return part


def _rank_of(memory: mmap.mmap, begin: int) -> int | None:
    """The rank that has written a part; None for one that is empty."""
    rank, raw = _SLOT.unpack_from(memory, begin)
    return rank if raw.rstrip(b"\0").decode(errors="replace") == _HEAD else None


def _locked(file: FileIO, begin: int, kind: int) -> bool:
    """Whether a part could be locked, or let go. The lock is the open file's: it ends with the
    process, and no other file that is opened or closed here changes it."""
    try:
        lock = _FLOCK.pack(kind, os.SEEK_SET, begin, _PART, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
    except BlockingIOError:
        return False
    return True


def _opened(place: str | None) -> tuple[FileIO, mmap.mmap] | None:
    if not place:
        return None
    try:
        file = open(place, "r+b", buffering=0)  # noqa: SIM115 - a part is held as long as it is open
        return file, mmap.mmap(file.fileno(), _SIZE)
    except (OSError, ValueError) as error:  # another host, or a parent that has gone
        _LOG.warning("counts of this process are in no metrics: %s", error)
        return None
