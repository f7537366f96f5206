"""Measure a group and make its table: links, a curve for each algorithm, bands.

Algorithms of one numerics class compete, so that noise chooses speed and never arithmetic.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from glmc_runtime.collectives.bands import ON_CARDS, choose_bands
from glmc_runtime.collectives.group import Group, backend_of
from glmc_runtime.collectives.links import measure_links, rounded
from glmc_runtime.collectives.measure import agreed, all_reduces, measure
from glmc_runtime.errors import GuardError
from glmc_runtime.format.algorithms import (
    ALGORITHMS,
    DTYPES,
    LIBRARY,
    MEMORY,
    MESSAGES,
    PEERS,
    RANK_ORDER,
    TREE,
    of_class,
    on_cards,
)
from glmc_runtime.format.collectives import (
    MEASURED,
    AlgorithmTable,
    Band,
    Curve,
    GroupKey,
    Origin,
    TableEntry,
    default_table,
    tree_only,
)
from glmc_runtime.format.collectives_json import read_table, table_to_text

SECONDS = 4.2
_SIZES = tuple(1 << power for power in range(10, 25))
_ONE_CALL = 0.1
"""Of the time for a dtype, what a call of each algorithm of each size may take."""
_LINK_SHARE = 0.1
_DTYPES = {name: getattr(torch, name) for name in DTYPES}
_NOTHING = AlgorithmTable(())


@dataclass(frozen=True)
class Wanted:
    """What is measured: ``numerics`` is the class whose algorithms compete, ``previous`` a table
    whose bands stay where they are good enough, ``seconds`` the time for all of it, ``memory``
    whether algorithms in shared memory, or over that of peers, take part."""

    numerics: str = TREE
    previous: AlgorithmTable = _NOTHING
    seconds: float = SECONDS
    memory: bool = True


def tune(group: Group, device: torch.device, wanted: Wanted) -> AlgorithmTable:
    """A collective call: the table of this group, the same on all ranks. Raises
    :class:`GuardError` where the class has no algorithm here."""
    media = _media(group, device, wanted)
    names = [name for name in of_class(wanted.numerics) if ALGORITHMS[name].medium in media]
    measured = [LIBRARY, *(name for name in names if name != LIBRARY)]
    graphs = tuple(filter(on_cards, measured)) if PEERS in media else ()
    competing = [name for name in names if name in graphs] if graphs else names
    seconds = wanted.seconds / len(_DTYPES)
    origin = Origin(
        MEASURED, datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"), describe(group, device)
    )
    entries = []
    for name, dtype in _DTYPES.items():
        started = time.perf_counter()
        links = measure_links(group, device, dtype, media, seconds * _LINK_SHARE)
        thunks = all_reduces(group, measured, _SIZES, dtype, device, seconds * _ONE_CALL, graphs)
        sizes = sorted({size for _, size in thunks})
        left = seconds - (time.perf_counter() - started)
        times = agreed(group, measure(group, thunks, left, device, drop_far=True), device)
        key = GroupKey(group.size, group.topology, name)
        curves = {one: [times[one, size] for size in sizes] for one in measured}
        bands = choose_bands(
            {one: curves[one] for one in competing},
            sizes,
            _incumbents(wanted.previous, key),
            **({"margin": ON_CARDS, "saving": ON_CARDS} if graphs else {}),
        )
        entries.append(
            TableEntry(
                key,
                wanted.numerics,
                bands,
                origin,
                links,
                tuple(
                    Curve(one, tuple(sizes), tuple(map(rounded, curves[one]))) for one in measured
                ),
            )
        )
    return AlgorithmTable(tuple(entries))


def tune_job(
    group: Group,
    device: torch.device,
    numerics: str,
    previous: str | None = None,
    seconds: float = SECONDS,
) -> str:
    """:func:`tune` from options that are JSON, as the text of a table."""
    before = _NOTHING if previous is None else read_table(previous.encode())
    return table_to_text(tune(group, device, Wanted(numerics, before, seconds)))


def describe(group: Group, device: torch.device) -> str:
    """Where this is: processor or card, backend, version of torch."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{where}, {backend_of(group.process_group)}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{len(names)} cores of {name}" if names else name


def _media(group: Group, device: torch.device, wanted: Wanted) -> set[str]:
    """Messages, and the memory that the class has algorithms for and the ranks can have; all of
    them say the same. Raises :class:`GuardError` where the class has no other."""
    only = wanted.numerics == RANK_ORDER
    on_host = device.type == "cpu" and not only
    medium, name = (MEMORY, "one_shot") if on_host else (PEERS, "peer_one_shot")
    if name not in of_class(wanted.numerics) or group.size == 1 or not (wanted.memory or only):
        return {MESSAGES}
    try:
        group.all_reduce_of(torch.zeros(1, device=device), name)
    except GuardError:
        if only:
            raise
        return {MESSAGES}
    return {MESSAGES, medium}


def _incumbents(previous: AlgorithmTable, key: GroupKey) -> Sequence[tuple[Band, ...]]:
    """The bands of the table before, then given ones: in shared memory, and over messages."""
    over_messages = default_table("xpu", key.ranks, key.topology)
    in_memory = default_table("cpu", key.ranks, key.topology)
    tables = (previous, in_memory, over_messages, tree_only(over_messages))
    return [entry.bands for table in tables for entry in table.entries if entry.key == key]
