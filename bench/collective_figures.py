"""What follows from times of all-reduces: bandwidths, crossings, and tables that are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from glmc_runtime.collectives.measure import Case
from glmc_runtime.format.algorithms import ALGORITHMS, LIBRARY
from glmc_runtime.format.collectives import TableEntry
from glmc_runtime.format.collectives_json import table_from_json


def bandwidths(
    names: Sequence[str], sizes: Sequence[int], times: Mapping[Case, float]
) -> Iterator[str]:
    """Markdown: bytes of the message by time."""
    rows = (
        [bytes_text(size), *(f"{size / times[name, size] / 1e3:.3g}" for name in names)]
        for size in sizes
    )
    return markdown(["bytes", *names], rows)


def crossings(
    names: Sequence[str], sizes: Sequence[int], times: Mapping[Case, float], entry: TableEntry
) -> Iterator[str]:
    """The fastest algorithm by size, of each medium and of all, beside what the textbook says."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name != LIBRARY:
            kinds.setdefault(ALGORITHMS[name].medium, []).append(name)
    for kind, among in [*kinds.items(), ("all", list(names))]:
        if len(among) < 2:
            continue
        measured = fastest(among, sizes, lambda name, size: times[name, size])
        predicted = fastest(among, sizes, lambda name, size: entry.predicted(name, size) or inf)
        yield f"* Fastest of {kind}: {measured}. Predicted: {predicted}"


def fastest(names: Sequence[str], sizes: Sequence[int], time: Callable[[str, int], float]) -> str:
    """The names in the order of the sizes at which they begin to be the fastest."""
    words: list[str] = []
    before = ""
    for size in sizes:
        best = min(names, key=lambda name: time(name, size))
        if best != before:
            words.append(f"{best} from {bytes_text(size)}" if words else best)
            before = best
    return ", ".join(words)


def same_choices(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether tables of several runs, JSON by numerics class, have the same bands."""
    for numerics in runs[0]:
        tables = [table_from_json(run[numerics]) for run in runs]
        bands = [{entry.key: entry.bands for entry in table.entries} for table in tables]
        other = [
            str(key) for key, first in bands[0].items() if any(one[key] != first for one in bands)
        ]
        said = f"no, other bands of {'; '.join(other)}" if other else "yes"
        yield f"* The choices of {len(runs)} runs are the same, class {numerics}: {said}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def bytes_text(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
