"""All-reduces of several ranks from 1 KiB to 64 MiB: each algorithm, and the choice of a table.

    python -m bench.collectives                        # 2 and 4 processes of this host, gloo
    python -m bench.collectives --messages             # without shared memory, as between hosts
    python -m bench.collectives --backend nccl --ranks 2,4,8 --runs 3 --seconds 10

A group is tuned first, as by ``tune-collectives``. Then all algorithms, ``library`` among them, and
the table's choice, which is a case of its own, are timed in turn, round after round. Prints medians
as markdown: what was measured beside what the textbook predicts from the measured links, how far
the choice is behind the best single algorithm of each size, bandwidths, where algorithms cross, and
whether tables of other runs choose the same.

Over nccl each rank has a card of one host. What a card takes from a table, the library and kernels
over the memory of peers, runs in device graphs; messages between pairs are called from the host.
The sums of the kernels are compared with those in the order of the ranks before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.collective_figures import bandwidths, bytes_text, crossings, markdown, same_choices
from bench.words import numbers
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import BACKENDS, run_job
from glmc_runtime.collectives.measure import Case, bound, measure, zeros
from glmc_runtime.collectives.tune import Wanted, describe, tune
from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.algorithms import (
    ANY_ORDER,
    DTYPES,
    RANK_ORDER,
    TREE,
    of_class,
    on_cards,
)
from glmc_runtime.format.collectives import ONE_HOST, AlgorithmTable, GroupKey, TableEntry
from glmc_runtime.format.collectives_json import table_from_json, table_to_json

SIZES = tuple(1 << power for power in range(10, 27, 2))
CHOICES = {TREE: "choice", RANK_ORDER: "choice", ANY_ORDER: "choice, any order"}
LIMITS = {"gloo": 600.0, "nccl": 240.0}
"""Seconds of a group, after which ranks that wait for each other for ever are ended."""
BARS = {"gloo": 0.10, "nccl": 0.05}
"""How far the choice may be behind the best single algorithm."""
Rounds = Mapping[Case, Sequence[float]]


def job(
    group: Group,
    device: torch.device,
    seconds: float,
    dtype: str,
    memory: bool,
    numerics: Sequence[str],
    captured_messages: bool = False,
) -> str:
    """On each rank: a table of each of ``numerics``, then time everything; as JSON."""
    if RANK_ORDER in numerics:
        from bench.gpu.peer_values import require_rank_order  # Triton need not be there else

        require_rank_order(group, device)
    tables = _tables(group, device, memory, numerics)
    kind: torch.dtype = getattr(torch, dtype)
    names = [curve.algorithm for curve in tables[ANY_ORDER].entries[0].curves]
    graphs = [name for name in names if captured_messages or (memory and on_cards(name))]
    thunks: dict[Case, Thunk] = {}
    for size in SIZES:
        x = zeros(size, kind, device)
        thunks |= {(name, size): bound(group, x, name, graphs) for name in names}
        for one, table in tables.items():
            group.table = table
            thunks[CHOICES[one], size] = bound(group, x, group.algorithm_of(x), graphs)
    times = measure(group, thunks, seconds, device, drop_far=True)
    return json.dumps(
        {
            "where": describe(group, device),
            "graphs": graphs if device.type == "cuda" else [],
            "tables": {name: table_to_json(table) for name, table in tables.items()},
            "rounds": [[*case, values] for case, values in times.rounds.items()],
        }
    )


def table_job(group: Group, device: torch.device, memory: bool, numerics: Sequence[str]) -> str:
    """On each rank: the tables alone, as JSON."""
    tables = _tables(group, device, memory, numerics)
    return json.dumps({name: table_to_json(table) for name, table in tables.items()})


def _tables(
    group: Group, device: torch.device, memory: bool, numerics: Sequence[str]
) -> dict[str, AlgorithmTable]:
    return {one: tune(group, device, Wanted(one, memory=memory)) for one in numerics}


def report(
    ranks: int,
    dtype: str,
    topology: str,
    result: Mapping[str, Any],
    bar: float = BARS["gloo"],
    other_runs: Sequence[Mapping[str, Any]] = (),
) -> Iterator[str]:
    """Markdown of one group; ``other_runs`` are the tables of other runs, as JSON."""
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
        + (f"; in device graphs: {', '.join(result['graphs'])}" if result["graphs"] else "")
    )
    yield ""
    yield from markdown(
        ["bytes", *names, *(CHOICES[numerics] for numerics in entries)],
        ([bytes_text(size), *_row(size, names, times, rounds, entries)] for size in SIZES),
    )
    yield ""
    yield "Bytes of a message by its time, GB/s:"
    yield ""
    yield from bandwidths([*names, *(CHOICES[numerics] for numerics in entries)], SIZES, times)
    yield ""
    yield "Predicted from " + " and ".join(
        f"{link.medium} of {link.latency:g} us and {link.bandwidth / 1000:.3g} GB/s a step"
        for link in entries[ANY_ORDER].links
    )
    yield ""
    yield from crossings(names, SIZES, times, entries[ANY_ORDER])
    for numerics, entry in entries.items():
        worst = max(behind(size, numerics, names, rounds) for size in SIZES)
        named = max(
            times[entry.algorithm(size), size] / times[best_of(size, numerics, names, rounds), size]
            for size in SIZES
        )
        bands = ", ".join(
            f"{band.algorithm}" + ("" if band.below is None else f" below {bytes_text(band.below)}")
            for band in entry.bands
        )
        yield (
            f"* {CHOICES[numerics]}: {bands}. Behind the best that may compete, at worst: "
            f"{worst:.0%} as a case of its own, {named - 1:.0%} by the algorithm that it names; "
            f"at most {bar:.0%}: {'yes' if worst <= bar else 'no'}"
        )
    if other_runs:
        yield from same_choices([result["tables"], *other_runs])
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


def _time(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ranks", type=numbers, default="2,4", help="how many, with commas")
    parser.add_argument("--backend", choices=BACKENDS, default="gloo")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each group")
    parser.add_argument("--runs", type=int, default=1, help="whose tables are compared")
    parser.add_argument(
        "--messages", action="store_true", help="no memory that ranks share, of host or cards"
    )
    parser.add_argument(
        "--captured-messages",
        action="store_true",
        help="over nccl, messages between pairs in device graphs as well",
    )
    options = parser.parse_args()
    if options.captured_messages and options.backend == "gloo":
        parser.error("--captured-messages: there are device graphs over nccl alone")
    ordered = TREE if options.backend == "gloo" else RANK_ORDER
    without = options.backend == "nccl" and options.messages
    tables = {
        "memory": not options.messages,
        "numerics": [ANY_ORDER] if without else [ordered, ANY_ORDER],
    }
    timed = {
        **tables,
        "seconds": options.seconds,
        "dtype": options.dtype,
        "captured_messages": options.captured_messages,
    }
    for ranks in options.ranks:
        start = partial(
            run_job,
            ranks=ranks,
            backend=options.backend,
            topology=ONE_HOST,
            limit=LIMITS[options.backend] + options.seconds,
        )
        try:
            result = json.loads(start("bench.collectives:job", timed))
            others = [
                json.loads(start("bench.collectives:table_job", tables))
                for _ in range(options.runs - 1)
            ]
        except GlmcError as error:
            print(error, file=sys.stderr)
            return 1
        lines = report(ranks, options.dtype, ONE_HOST, result, BARS[options.backend], others)
        print("\n".join(lines), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
