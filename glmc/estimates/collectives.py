"""Seconds of a collective, by the algorithm that the ranks' table has for its message.

A table that was measured has the times itself. Else the costs of the algorithms are those of the
textbooks (:mod:`glmc_runtime.format.algorithms`), over the links of a device's description.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from glmc.estimates.device import Device
from glmc.ir.ops.collectives import ALL_REDUCES
from glmc_runtime.format.algorithms import ALGORITHMS, LIBRARY, MEMORY, MESSAGES, Link
from glmc_runtime.format.collectives import (
    ONE_HOST,
    AlgorithmTable,
    GroupKey,
    TableEntry,
    default_table,
)

_MICRO = 1e-6


@dataclass(frozen=True)
class Group:
    """The cards that one model is dealt to, and their table of algorithms."""

    device: Device
    ranks: int
    table: AlgorithmTable

    def entry(self, dtype: str) -> TableEntry:
        """What the table has for messages of the dtype; raises PlanError where that is nothing."""
        return self.table.entry(GroupKey(self.ranks, ONE_HOST, dtype))

    def seconds(self, op: str, message: float, dtype: str) -> tuple[str, float]:
        """The algorithm of a collective whose ranks have ``message`` bytes each, and its time."""
        entry = self.entry(dtype)
        if op not in ALL_REDUCES:
            return LIBRARY, self._passed_on(message, entry)
        name = entry.algorithm(round(message))
        return name, self.all_reduce(name, message, entry)

    def best(self, message: float, dtype: str) -> tuple[str, float]:
        """The fastest algorithm of an all-reduce, among those that the table measured or whose
        links are described."""
        entry = self.entry(dtype)
        names = [curve.algorithm for curve in entry.curves]
        names = names or [name for name in ALGORITHMS if self._has(name)]
        times = {name: self.all_reduce(name, message, entry) for name in names}
        name = min(times, key=lambda name: times[name])
        return name, times[name]

    def all_reduce(self, name: str, message: float, entry: TableEntry) -> float:
        """Seconds of an all-reduce by an algorithm: as the table measured it, or by the textbook
        over the links that the table measured, else over those of the device."""
        measured = entry.expected(name, round(message))
        if measured is None:
            measured = entry.predicted(name, round(message))
        if measured is not None:
            return measured * _MICRO
        links = self.device.links
        if name == LIBRARY and links.library is not None:
            return self._start() + 2 * self._share * message * links.library.beta.value
        known = links.memory if ALGORITHMS[name].medium == MEMORY else links.messages
        used = known or links.messages
        link = Link(MESSAGES, used.alpha.value / _MICRO, _MICRO / used.beta.value)
        return ALGORITHMS[name].predicted(self.ranks, round(message), link) * _MICRO

    def least(self, op: str, message: float, dtype: str) -> float:
        """Seconds in which the bytes that each rank must send have gone over its fastest link."""
        reduced = op in ALL_REDUCES
        sent = 2 * self._share * message if reduced else (self.ranks - 1) * message
        links = self.device.links
        known = (links.messages, links.memory, links.library)
        described = min(each.beta.value for each in known if each is not None)
        measured = (_MICRO / link.bandwidth for link in self.entry(dtype).links)
        return sent * min(measured, default=described)

    @property
    def _share(self) -> float:
        """Of a message, what a rank does not keep."""
        return (self.ranks - 1) / self.ranks

    def _start(self) -> float:
        """Seconds until a library's collective has moved its first bytes."""
        library, messages = self.device.links.library, self.device.links.messages
        if library is None:
            return (self.ranks - 1) * messages.alpha.value
        return library.start.value + library.doubling.value * log2(self.ranks)

    def _passed_on(self, message: float, entry: TableEntry) -> float:
        """Of a collective in which each rank passes on what it gets from its neighbour."""
        for link in entry.links:
            if link.medium == MESSAGES:
                return (self.ranks - 1) * (link.latency + message / link.bandwidth) * _MICRO
        links = self.device.links
        beta = (links.library or links.messages).beta.value
        return self._start() + (self.ranks - 1) * message * beta

    def _has(self, name: str) -> bool:
        """Links to the memory of peers are not described: a table may have measured them."""
        medium = ALGORITHMS[name].medium
        return medium == MESSAGES or (medium == MEMORY and self.device.links.memory is not None)


def group_of(device: Device, ranks: int, table: AlgorithmTable | None = None) -> Group | None:
    """The group of so many ranks, with the table that a compile gives where there is no other;
    None for one rank. :meth:`Group.entry` says whether a given one is for such a group."""
    if ranks == 1:
        return None
    return Group(device, ranks, table or default_table(device.target, ranks))
