"""``tune-collectives``: measure a group of ranks and write its table of algorithms."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc_runtime.errors import RequestError
from glmc_runtime.printable import printable_lines

if TYPE_CHECKING:
    from glmc_runtime.format.collectives import AlgorithmTable

JOB = "glmc_runtime.collectives.tune:tune_job"
LIMIT = 120.0
"""Seconds for all of it, once all ranks have imported torch."""
_MOST_RANKS = 64


def tune_collectives(options: SimpleNamespace) -> int:
    """Start the ranks, or join those that torchrun started; returns the exit status."""
    from glmc_runtime.arguments import integer
    from glmc_runtime.collectives.launch import BACKENDS, joined_job, run_job
    from glmc_runtime.command.nearest import did_you_mean
    from glmc_runtime.format.algorithms import ANY_ORDER, RANK_ORDER, TREE
    from glmc_runtime.format.collectives_json import read_table, table_to_text

    if options.backend not in BACKENDS:
        raise RequestError(
            f"there is no backend '{options.backend}'",
            expected=", ".join(BACKENDS),
            remedy=did_you_mean(options.backend, BACKENDS) or "see --help",
        )
    started = _started_ranks()
    ranks = started if options.ranks is None else integer("--ranks", options.ranks)
    if ranks is None or not 2 <= ranks <= _MOST_RANKS or started not in (None, ranks):
        raise RequestError(
            "a group has at least two ranks",
            expected=f"--ranks from 2 to {_MOST_RANKS}"
            if started is None
            else f"--ranks {started}, as many as torchrun started, or none",
            found="nothing" if ranks is None else str(ranks),
        )
    if options.any_order and options.rank_order:
        raise RequestError(
            "algorithms compete in one class",
            expected="--any-order or --rank-order",
            found="both",
        )
    order = RANK_ORDER if options.rank_order else TREE
    output = None if options.output is None else Path(options.output)
    job = {
        "numerics": ANY_ORDER if options.any_order else order,
        "previous": _previous(output),
    }
    text = (
        run_job(
            JOB,
            job,
            ranks,
            backend=options.backend,
            topology=options.topology,
            limit=LIMIT,
        )
        if started is None
        else joined_job(JOB, job, options.backend, options.topology)
    )
    if text is None:
        return 0  # another rank than the first
    table = read_table(text.encode())
    if output is None:
        print(printable_lines(table_to_text(table)), end="")
        return 0
    output.write_text(table_to_text(table), encoding="utf-8")
    print(printable_lines("\n".join([*summary(table), f"written to {output}"])))
    return 0


def summary(table: AlgorithmTable) -> list[str]:
    """What is chosen for each dtype, on what grounds."""
    from glmc_runtime.command.units import bytes_text

    lines = []
    for entry in table.entries:
        words, bound = [], 0
        for band in entry.bands:
            start = f" from {bytes_text(bound)}" if bound else ""
            words.append(f"{band.algorithm}{start}")
            bound = band.below or 0
        lines.append(f"{entry.key}: {', '.join(words)} (class: {entry.numerics})")
    first = table.entries[0]
    lines += [
        f"{link.medium}: {link.latency:g} us a step, {link.bandwidth / 1000:.2f} GB/s"
        for link in first.links
    ]
    return [*lines, str(first.origin)]


def _started_ranks() -> int | None:
    """How many torchrun started, of which this is one."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["WORLD_SIZE"])


def _previous(output: Path | None) -> str | None:
    """The table that is there already, as text; raises where a file is none."""
    from glmc_runtime.format.collectives_json import LARGEST_FILE, read_table

    if output is None or not output.exists():
        return None
    with output.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    read_table(data, str(output))
    return data.decode()
