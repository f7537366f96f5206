"""Counts of what was served, which all processes of one server can read.

A server has several processes: models run in some, and another answers for the metrics. They share
one file in memory, without a name in any folder, so that nothing is left when they are killed. The
process that starts first makes it and tells the others by an environment variable. Each rank writes
a part of its own; whoever reads sees numbers of a moment ago.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

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
_RANK = _SLOT.size * _SLOTS
_RANKS = 64
_SIZE = _RANK * _RANKS
_keep: list[int] = []
"""Descriptors of the memory that this process has made for others."""


@dataclass(frozen=True)
class Count:
    """One number: ``name`` such as ``replays``, ``labels`` such as phase and bucket."""

    rank: int
    name: str
    labels: tuple[tuple[str, str], ...]
    value: int


@dataclass
class Counters:
    """The counts of one rank; in memory of its own where there is none to share."""

    rank: int = 0
    memory: mmap.mmap | None = None
    _slots: dict[tuple[str, tuple[tuple[str, str], ...]], int] = field(default_factory=dict)
    _values: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of_rank(cls, rank: int) -> Counters:
        """Those of a rank in this process, from zero on, shared if a server has set that up."""
        memory = _mapped(os.environ.get(COUNTERS))
        if rank >= _RANKS:
            memory = None
        if memory is not None:
            memory[rank * _RANK : (rank + 1) * _RANK] = bytes(_RANK)
        return cls(rank, memory)

    def set(self, name: str, value: int, **labels: str) -> None:
        """Write a count."""
        key = (name, tuple(sorted(labels.items())))
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._slots)
            if self.memory is not None and slot < _SLOTS:
                text = "|".join([name, *(f"{label}={text}" for label, text in key[1])]).encode()
                _SLOT.pack_into(self.memory, self._place(slot), value, text[:120])
        self._write(slot, value)

    def setter(self, name: str, **labels: str) -> Callable[[int], None]:
        """What writes one count, for those of each step."""
        self.set(name, 0, **labels)
        return partial(self._write, self._slots[(name, tuple(sorted(labels.items())))])

    def _write(self, slot: int, value: int) -> None:
        self._values[slot] = value
        if self.memory is not None and slot < _SLOTS:
            struct.pack_into("<q", self.memory, self._place(slot), value)

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

    def _place(self, slot: int) -> int:
        return self.rank * _RANK + slot * _SLOT.size


def share_counters() -> None:
    """Make memory for the counts of this server, unless a parent of this process has."""
    if os.environ.get(COUNTERS) or not hasattr(os, "memfd_create"):
        return
    descriptor = os.memfd_create("glmc-counters")
    os.ftruncate(descriptor, _SIZE)
    _keep.append(descriptor)
    os.environ[COUNTERS] = f"/proc/{os.getpid()}/fd/{descriptor}"


def shared_counts() -> Iterator[Count]:
    """The counts of all ranks of this server."""
    memory = _mapped(os.environ.get(COUNTERS))
    if memory is None:
        return
    for rank in range(_RANKS):
        for slot in range(_SLOTS):
            value, raw = _SLOT.unpack_from(memory, rank * _RANK + slot * _SLOT.size)
            text = raw.rstrip(b"\0").decode(errors="replace")
            if not text:
                break
            name, *labels = text.split("|")
            pairs = tuple(
                (label, value) for label, _, value in (one.partition("=") for one in labels)
            )
            yield Count(rank, name, pairs, value)


def _mapped(place: str | None) -> mmap.mmap | None:
    if not place:
        return None
    try:
        with open(place, "r+b", buffering=0) as file:
            return mmap.mmap(file.fileno(), _SIZE)
    except (OSError, ValueError) as error:  # another host, or a parent that has gone
        _LOG.warning("counts of this process are in no metrics: %s", error)
        return None
