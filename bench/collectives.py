"""All-reduces of 2 and 4 ranks from 1 KiB to 64 MiB: each algorithm, and the choice of a table.

    python -m bench.collectives                        # 2 and 4 processes of this host, gloo
    python -m bench.collectives --messages             # without shared memory, as between hosts
    python -m bench.collectives --ranks 8 --backend nccl

A group is tuned first, as by ``tune-collectives``. Then all algorithms, ``library`` among them, and
the table's choice, which is a case of its own, are timed in turn, round after round. Prints medians
as markdown: what was measured beside what the textbook predicts from the measured links, and how
far the choice is behind the best single algorithm of each size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import BACKENDS, run_job
from glmc_runtime.collectives.measure import Case, measure, zeros
from glmc_runtime.collectives.tune import Wanted, describe, tune
from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.format.algorithms import ANY_ORDER, DTYPES, TREE, of_class
from glmc_runtime.format.collectives import ONE_HOST, GroupKey, TableEntry
from glmc_runtime.format.collectives_json import table_from_json, table_to_json

SIZES = tuple(1 << power for power in range(10, 27, 2))
CHOICES = {TREE: "choice", ANY_ORDER: "choice, any order"}
LIMIT = 600.0
Rounds = Mapping[Case, Sequence[float]]


def job(group: Group, device: torch.device, seconds: float, dtype: str, memory: bool) -> str:
    """On each rank: tune twice, time everything, and say it as JSON."""
    # On a card the library adds whatever a table says, and nothing else competes.
    wanted = CHOICES if device.type == "cpu" else (ANY_ORDER,)
    tables = {numerics: tune(group, device, Wanted(numerics, memory=memory)) for numerics in wanted}
    kind: torch.dtype = getattr(torch, dtype)
    names = [curve.algorithm for curve in tables[ANY_ORDER].entries[0].curves]
    thunks: dict[Case, Thunk] = {}
    for size in SIZES:
        x = zeros(size, kind, device)
        thunks |= {(name, size): group.all_reduce_of(x, name) for name in names}
        for numerics, table in tables.items():
            group.table = table
            thunks[CHOICES[numerics], size] = group.all_reduce_of(x)
    times = measure(group, thunks, seconds, device, drop_far=True)
    return json.dumps(
        {
            "where": describe(group, device),
            "tables": {name: table_to_json(table) for name, table in tables.items()},
            "rounds": [[*case, values] for case, values in times.rounds.items()],
        }
    )


def report(ranks: int, dtype: str, topology: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Markdown of one group."""
    rounds = {(name, size): values for name, size, values in result["rounds"]}
    times = {case: median(values) for case, values in rounds.items()}
    tables = {name: table_from_json(data) for name, data in result["tables"].items()}
    key = GroupKey(ranks, topology, dtype)
    entries = {name: table.entry(key) for name, table in tables.items()}
    names = [curve.algorithm for curve in entries[ANY_ORDER].curves]
    counts = sorted(map(len, rounds.values()))
    yield (
        f"{ranks} ranks, {dtype}, {result['where']}: us, measured / predicted; medians of "
        f"{counts[-1]} rounds, of {counts[0]} where an algorithm is far from the best"
    )
    yield ""
    yield from _table(
        ["bytes", *names, *(CHOICES[numerics] for numerics in entries)],
        ([_bytes(size), *_row(size, names, times, rounds, entries)] for size in SIZES),
    )
    yield ""
    yield "Predicted from " + " and ".join(
        f"{link.medium} of {link.latency:g} us and {link.bandwidth / 1000:.3g} GB/s a step"
        for link in entries[ANY_ORDER].links
    )
    yield ""
    for numerics, entry in entries.items():
        worst = max(behind(size, numerics, names, rounds) for size in SIZES)
        named = max(
            times[entry.algorithm(size), size] / times[best_of(size, numerics, names, rounds), size]
            for size in SIZES
        )
        bands = ", ".join(
            f"{band.algorithm}" + ("" if band.below is None else f" below {_bytes(band.below)}")
            for band in entry.bands
        )
        yield (
            f"* {CHOICES[numerics]}: {bands}. Behind the best that may compete, at worst: "
            f"{worst:.0%} as a case of its own, {named - 1:.0%} by the algorithm that it names"
        )
    yield ""


def behind(size: int, numerics: str, names: Sequence[str], rounds: Rounds) -> float:
    """By what share the table's choice takes longer than the best algorithm that may compete: the
    median over rounds, in each of which both were timed within moments."""
    best = best_of(size, numerics, names, rounds)
    pairs = zip(rounds[CHOICES[numerics], size], rounds[best, size], strict=False)
    return median(choice / other for choice, other in pairs) - 1


def best_of(size: int, numerics: str, names: Sequence[str], rounds: Rounds) -> str:
    """The algorithm with the least median among those that may compete."""
    competing = [name for name in names if name in of_class(numerics)]
    return min(competing, key=lambda name: median(rounds[name, size]))


def _row(
    size: int,
    names: Sequence[str],
    times: Mapping[Case, float],
    rounds: Rounds,
    entries: Mapping[str, TableEntry],
) -> Iterator[str]:
    for name in names:
        predicted = entries[ANY_ORDER].predicted(name, size)
        yield f"{_time(times[name, size])} / {_time(predicted)}"
    for numerics, entry in entries.items():
        share = behind(size, numerics, names, rounds)
        yield f"{_time(times[CHOICES[numerics], size])} {entry.algorithm(size)} ({share:+.0%})"


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _time(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ranks", default="2,4", help="numbers of ranks, with commas")
    parser.add_argument("--backend", choices=BACKENDS, default="gloo")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each group")
    parser.add_argument("--messages", action="store_true", help="no shared memory")
    options = parser.parse_args()
    for ranks in map(int, options.ranks.split(",")):
        result = run_job(
            "bench.collectives:job",
            {
                "seconds": options.seconds,
                "dtype": options.dtype,
                "memory": not options.messages,
            },
            ranks,
            backend=options.backend,
            topology=ONE_HOST,
            limit=LIMIT,
        )
        print("\n".join(report(ranks, options.dtype, ONE_HOST, json.loads(result))), flush=True)


if __name__ == "__main__":
    main()
