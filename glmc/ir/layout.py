"""A layout: how the entries of a dimension are dealt to ranks.

A dimension is a row of sections, such as the q, k and v columns of a merged projection, and a
section a row of equal units, such as heads. Each rank has the same number of units of each section,
the last ones filled up with zeros; units are never cut but where a section says into how many
parts. Where there are more ranks than units, several ranks share one: each has some of its parts,
or, where units are repeated, all of it. So KV heads are repeated, and the query heads that read one
are shared out.

A layout may be for more ranks than there are, of which each has several neighbours' shares side by
side: what is dealt so can be summed share by share, the same for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple


class Run(NamedTuple):
    """``length`` entries from ``start`` on, or zeros where it is None."""

    start: int | None
    length: int


@dataclass(frozen=True)
class Section:
    """``units`` of ``size`` entries. Where there are more ranks than units, one is cut into up to
    ``parts``, or ``repeated``; where there are fewer, each rank has a ``multiple`` of so many."""

    units: int
    size: int = 1
    parts: int = 1
    repeated: bool = False
    multiple: int = 1

    @property
    def entries(self) -> int:
        return self.units * self.size

    def runs(self, rank: int, ranks: int) -> Iterator[Run]:
        """What a rank has, by places within the section."""
        if self.units >= ranks:
            count = -(-self.units // (ranks * self.multiple)) * self.multiple
            start = min(rank * count, self.units)
            yield from _filled(start, min(count, self.units - start), count, self.size)
            return
        copies = ranks // _divisor(ranks, self.units)
        unit, share = divmod(rank, copies)
        if self.repeated:
            yield from _filled(unit, min(1, max(self.units - unit, 0)), 1, self.size)
            return
        count, size = -(-self.parts // copies), self.size // self.parts
        start = min(share * count, self.parts)
        present = min(count, self.parts - start) if unit < self.units else 0
        yield from _filled(unit * self.parts + start, present, count, size)


def _filled(start: int, present: int, count: int, size: int) -> Iterator[Run]:
    if present > 0:
        yield Run(start * size, present * size)
    if present < count:
        yield Run(None, (count - max(present, 0)) * size)


def _divisor(number: int, least: int) -> int:
    """The smallest divisor of ``number`` that is at least ``least``."""
    return next(each for each in range(least, number + 1) if number % each == 0)


@dataclass(frozen=True)
class Layout:
    """The sections of a dimension, and how many ranks they are dealt to: as if there were
    ``merged`` times as many, of which a rank is so many neighbours."""

    sections: tuple[Section, ...]
    ranks: int
    merged: int = 1

    @property
    def entries(self) -> int:
        """Of the whole dimension."""
        return sum(section.entries for section in self.sections)

    @property
    def local(self) -> int:
        """Entries that each rank has, zeros included."""
        return sum(run.length for run in self.runs(0))

    @property
    def padded(self) -> int:
        """Entries of all ranks that are zeros, which no value of the whole is behind."""
        return sum(
            run.length for rank in range(self.ranks) for run in self.runs(rank) if run.start is None
        )

    def runs(self, rank: int) -> tuple[Run, ...]:
        """What a rank has, by places within the dimension; neighbours are one run."""
        found: list[Run] = []
        base = 0
        for section in self.sections:
            for share in range(rank * self.merged, (rank + 1) * self.merged):
                for run in section.runs(share, self.ranks * self.merged):
                    start = None if run.start is None else base + run.start
                    found.append(Run(start, run.length))
            base += section.entries
        return tuple(_joined(found))

    def merging(self, shares: int) -> Layout:
        """The layout of ``shares`` for all ranks together, of which each has neighbours."""
        return replace(self, merged=shares // self.ranks)

    def scaled(self, factor: int) -> Layout:
        """The layout where each entry is a row of ``factor`` of them: heads become columns."""
        sections = (replace(each, size=each.size * factor) for each in self.sections)
        return replace(self, sections=tuple(sections))

    def divided(self, factor: int) -> Layout | None:
        """The layout where a row of ``factor`` entries is one; None where it cuts through a row."""
        sections = []
        for each in self.sections:
            if (each.size // each.parts) % factor or each.size % each.parts:
                return None
            sections.append(replace(each, size=each.size // factor))
        return replace(self, sections=tuple(sections))


def _joined(runs: list[Run]) -> Iterator[Run]:
    """Runs in order, those that follow one another as one."""
    pending: Run | None = None
    for run in runs:
        if not run.length:
            continue
        if pending is not None:
            zeros = pending.start is None and run.start is None
            follows = None not in (pending.start, run.start) and (
                pending.start + pending.length == run.start  # type: ignore[operator]
            )
            if zeros or follows:
                pending = Run(pending.start, pending.length + run.length)
                continue
            yield pending
        pending = run
    if pending is not None:
        yield pending


def even(size: int, ranks: int, unit: int = 1, multiple: int = 1, merged: int = 1) -> Layout:
    """One section of ``size`` entries, dealt in units, a ``multiple`` of so many to each rank."""
    if size % unit:
        raise ValueError(f"{size} entries are no whole number of units of {unit}")
    return Layout((Section(size // unit, unit, multiple=multiple),), ranks, merged)
