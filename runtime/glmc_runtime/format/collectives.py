"""``collectives.json``: which algorithm an all-reduce takes, by group, topology, dtype and bytes.

The choice is data that all ranks agree on. A table has an entry for each kind of group; an entry
has bands of message sizes with an algorithm each, and says where they came from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from glmc_runtime.errors import PlanError
from glmc_runtime.format.algorithms import (
    ALGORITHMS,
    ANY_ORDER,
    DTYPES,
    LIBRARY,
    TREE,
    Link,
    of_class,
)

COLLECTIVES = "collectives.json"
ONE_HOST = "one-host"
GIVEN, MEASURED = "given", "measured"
_MIB = 1 << 20


@dataclass(frozen=True)
class GroupKey:
    """A kind of group: how many ranks, how they are connected, and the dtype of the message."""

    ranks: int
    topology: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.ranks} ranks, {self.topology}, {self.dtype}"


@dataclass(frozen=True)
class Band:
    """The algorithm of messages of fewer bytes than ``below``; of all larger ones where None."""

    below: int | None
    algorithm: str


@dataclass(frozen=True)
class Origin:
    """Where bands came from: ``kind`` is given or measured, ``when`` a date (empty for given ones),
    ``source`` the machine that was measured, or whose statement it is."""

    kind: str
    when: str
    source: str

    def __str__(self) -> str:
        if self.kind == MEASURED:
            return f"measured {self.when} on {self.source}"
        return f"given, not measured: {self.source}"


@dataclass(frozen=True)
class Curve:
    """Microseconds of an algorithm by message bytes, ascending, as they were measured."""

    algorithm: str
    sizes: tuple[int, ...]
    microseconds: tuple[float, ...]

    def at(self, size: int) -> float:
        """Between two points along a line, below the first as the first, above the last in
        proportion to the bytes."""
        place = bisect_left(self.sizes, size)
        if place == 0:
            return self.microseconds[0]
        if place == len(self.sizes):
            return self.microseconds[-1] * size / self.sizes[-1]
        low, high = self.sizes[place - 1], self.sizes[place]
        share = (size - low) / (high - low)
        return self.microseconds[place - 1] * (1 - share) + self.microseconds[place] * share


@dataclass(frozen=True)
class TableEntry:
    """The bands of one kind of group, ascending; the last has no bound.

    ``numerics`` is the class that all of its algorithms are of, or ``any``. ``links`` and
    ``curves`` are what was measured.
    """

    key: GroupKey
    numerics: str
    bands: tuple[Band, ...]
    origin: Origin
    links: tuple[Link, ...] = ()
    curves: tuple[Curve, ...] = ()

    def algorithm(self, size: int) -> str:
        """Of a message of ``size`` bytes."""
        return next(
            band.algorithm for band in self.bands if band.below is None or size < band.below
        )

    def expected(self, algorithm: str, size: int) -> float | None:
        """Microseconds that were measured for such a message; None where nothing was."""
        curve = next((one for one in self.curves if one.algorithm == algorithm), None)
        return None if curve is None else curve.at(size)

    def predicted(self, algorithm: str, size: int) -> float | None:
        """Microseconds by the textbook and the measured link; None where there is none."""
        one = ALGORITHMS[algorithm]
        link = next((link for link in self.links if link.medium == one.medium), None)
        return None if link is None else one.predicted(self.key.ranks, size, link)


@dataclass(frozen=True)
class AlgorithmTable:
    """An entry for each kind of group that a plan may run in."""

    entries: tuple[TableEntry, ...]

    def entry(self, key: GroupKey) -> TableEntry:
        """Raises :class:`PlanError` where the table has none."""
        entry = next((one for one in self.entries if one.key == key), None)
        if entry is None:
            raise PlanError(
                f"{COLLECTIVES} has no bands for this group",
                expected=str(key),
                found="; ".join(str(one.key) for one in self.entries[:8]) or "no entry",
                remedy=f"measure it: glmc-runtime tune-collectives --ranks {key.ranks} "
                f"--topology {key.topology}",
            )
        return entry


@dataclass(frozen=True)
class Choice:
    """What becomes of one message: ``expected`` and ``library`` are microseconds, None where
    nothing was measured."""

    size: int
    algorithm: str
    numerics: str
    origin: Origin
    expected: float | None
    library: float | None

    @property
    def saving(self) -> float | None:
        """Microseconds that it is expected to be faster than the library."""
        if self.expected is None or self.library is None:
            return None
        return self.library - self.expected

    def __str__(self) -> str:
        """As a table of buckets shows it; the origin is said once for all of them."""
        if self.expected is None or self.saving is None:
            return f"{self.algorithm}, time not measured"
        if self.algorithm == LIBRARY:
            return f"{self.algorithm}, {self.expected:,.1f} us"
        more = "less" if self.saving >= 0 else "more"
        beside = f"{abs(self.saving):,.1f} us {more} than the library"
        return f"{self.algorithm}, {self.expected:,.1f} us, {beside}"


def choices(table: AlgorithmTable, key: GroupKey, messages: Iterable[int]) -> tuple[Choice, ...]:
    """For each message of so many bytes, such as those of the buckets of a plan, what is chosen;
    raises :class:`PlanError` where the table has nothing for the group."""
    entry = table.entry(key)

    def choice(size: int) -> Choice:
        name = entry.algorithm(size)
        return Choice(
            size,
            name,
            ALGORITHMS[name].numerics,
            entry.origin,
            entry.expected(name, size),
            entry.expected(LIBRARY, size),
        )

    return tuple(map(choice, messages))


def default_table(target: str, ranks: int, topology: str = ONE_HOST) -> AlgorithmTable:
    """What a plan of ``target`` has before anything is measured; other targets have the
    library."""
    numerics, bands, source = _DEFAULTS.get(target, _DEFAULTS["cuda"])
    origin = Origin(GIVEN, "", source)
    return AlgorithmTable(
        tuple(
            TableEntry(GroupKey(ranks, topology, dtype), numerics, bands, origin)
            for dtype in DTYPES
        )
    )


_DEFAULTS: Mapping[str, tuple[str, tuple[Band, ...], str]] = {
    "xpu": (
        ANY_ORDER,
        (Band(2 * _MIB, "butterfly"), Band(None, "ring")),
        "the vendor's account: a butterfly below 2 MB, a ring above",
    ),
    "cuda": (LIBRARY, (Band(None, LIBRARY),), "NCCL chooses by itself"),
    "cpu": (
        TREE,
        (Band(_MIB // 4, "one_shot"), Band(None, "two_shot")),
        "in shared memory, fewest meetings for small messages and fewest bytes for large ones",
    ),
}


def tree_only(table: AlgorithmTable) -> AlgorithmTable:
    """The table with every algorithm of another class replaced by halving/doubling, so that the
    bits of a sum depend neither on the message's size nor on the bands."""

    def changed(entry: TableEntry) -> TableEntry:
        if entry.numerics == TREE:
            return entry
        tree = of_class(TREE)
        names = [
            Band(band.below, band.algorithm if band.algorithm in tree else "halving_doubling")
            for band in entry.bands
        ]
        return replace(entry, numerics=TREE, bands=merged(names))

    return AlgorithmTable(tuple(map(changed, table.entries)))


def merged(bands: Iterable[Band]) -> tuple[Band, ...]:
    """Bands of which no two neighbours have the same algorithm."""
    kept: list[Band] = []
    for band in bands:
        if kept and kept[-1].algorithm == band.algorithm:
            kept.pop()
        kept.append(band)
    return tuple(kept)
