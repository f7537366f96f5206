"""Nsight Systems' reports, exported: ``nsys export --type sqlite``.

Times are nanoseconds. Kernels, copies and fills have the correlation of the call that launched
them, which is one of its process alone. Tables and columns come and go with releases: what a
report lacks is not asked for. Names of columns are those of NVIDIA's schema reference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.timeline.readers.chrome import ChromeEvent, ChromeTrace
from glmc.observe.timeline.readers.launched import (
    KERNEL,
    MEMCPY,
    MEMSET,
    RANGE,
    RUNTIME,
    launched_timeline,
)
from glmc.observe.timeline.readers.limits import Limits
from glmc.observe.timeline.table import NOT_OURS, Facts, Timeline

MAGIC = b"SQLite format 3\x00"
_ACTIVITY = "CUPTI_ACTIVITY_KIND_"
_TABLES = {
    f"{_ACTIVITY}KERNEL": KERNEL,
    f"{_ACTIVITY}GRAPH_TRACE": KERNEL,
    f"{_ACTIVITY}MEMCPY": MEMCPY,
    f"{_ACTIVITY}MEMSET": MEMSET,
    f"{_ACTIVITY}RUNTIME": RUNTIME,
    "NVTX_EVENTS": RANGE,
}
_NAMES = ("demangledName", "shortName", "nameId", "textId")
_COPIES = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
_LONGEST = 1 << 20
"""Bytes of a text: names of kernels have some thousands."""
_WHOLE_GRAPHS = (
    "device graphs were traced as a whole: record with --cuda-graph-trace=node to see their kernels"
)


def read_nsys_sqlite(label: str, path: Path) -> Timeline:
    """The report as a table. Raises UsageError for a database that is none of Nsight Systems, or is
    damaged."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return _read(label, path, database)
    except sqlite3.Error as error:
        raise UsageError(f"the report can't be read: {error}", place=str(path)) from error


def _read(label: str, path: Path, database: sqlite3.Connection) -> Timeline:
    database.row_factory = sqlite3.Row
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    budget = _Budget(path)
    # A view computes its rows, as many as it likes.
    tables = {
        row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    if not any(name in tables for name in _TABLES):
        raise UsageError(
            "the database is no report of Nsight Systems, or nothing of CUDA was traced",
            place=str(path),
            expected=f"a table {_ACTIVITY}KERNEL",
            remedy="nsys profile --trace=cuda,nvtx, then nsys export --type sqlite",
        )
    texts = (
        {
            row[0]: row[1]
            for row in budget.taken(database.execute("SELECT id, value FROM StringIds"))
        }
        if "StringIds" in tables
        else {}
    )
    events = [
        event
        for table, category in _TABLES.items()
        if table in tables
        for event in _events(
            budget.taken(database.execute(f"SELECT * FROM {table}")), table, category, texts
        )
    ]
    events.sort(key=lambda event: (event.start_us, -event.duration_us))
    whole = f"{_ACTIVITY}GRAPH_TRACE"
    graphs = whole in tables and database.execute(f"SELECT count(*) FROM {whole}").fetchone()[0]
    facts = Facts(
        source="Nsight Systems",
        tried=False,
        device=_device(database) if "TARGET_INFO_GPU" in tables else "",
        attribution=NOT_OURS,
        remarks=(_WHOLE_GRAPHS,) if graphs else (),
    )
    return launched_timeline(label, ChromeTrace({}, tuple(events)), facts)


class _Budget:
    """What rows may come to, in number and in bytes of their texts: columns may be computed, and
    a default is no part of the file for each row that has it."""

    def __init__(self, path: Path) -> None:
        self._path, self._limits = path, Limits.of(path.stat().st_size)
        self._rows = self._bytes = 0

    def taken(self, rows: Iterable[sqlite3.Row]) -> Iterator[sqlite3.Row]:
        """The same rows; raises UsageError for the first that is too much."""
        for row in rows:
            self._rows += 1
            self._bytes += sum(len(each) for each in row if isinstance(each, (str, bytes)))
            self._limits.require_events(self._path, self._rows)
            self._limits.require_bytes(self._path, self._bytes)
            yield row


def _events(
    rows: Iterable[sqlite3.Row], table: str, category: str, texts: Mapping[int, str]
) -> Iterator[ChromeEvent]:
    for record in rows:
        row = {name: record[name] for name in record.keys()}  # noqa: SIM118
        start, end = row.get("start"), row.get("end")
        if not isinstance(start, int) or not isinstance(end, int) or end < start:
            continue  # a mark, or a range that never ended
        process, thread = _process(row)
        args = {
            "correlation": f"{process}:{row['correlationId']}" if row.get("correlationId") else "",
            "device": row.get("deviceId", 0),
            "stream": row.get("streamId", "?"),
            "bytes": row.get("bytes"),
        }
        yield ChromeEvent(
            _name(table, row, texts),
            category,
            (str(process), str(thread)),
            start / 1000,
            (end - start) / 1000,
            {name: value for name, value in args.items() if value not in ("", None)},
        )


def _process(row: Mapping[str, Any]) -> tuple[int, int]:
    """Process and thread; both are parts of one number."""
    serial = row.get("globalTid") or row.get("globalPid") or 0
    return (serial >> 24) & 0xFFFFFF, serial & 0xFFFFFF


def _name(table: str, row: Mapping[str, Any], texts: Mapping[int, str]) -> str:
    if table.endswith("MEMCPY"):
        return f"Memcpy {_COPIES.get(row.get('copyKind', 0), '')}".strip()
    if table.endswith("MEMSET"):
        return "Memset"
    if table.endswith("GRAPH_TRACE"):
        return f"device graph {row.get('graphId', '')}".strip()
    if isinstance(row.get("text"), str):
        return str(row["text"])
    return next((texts[row[name]] for name in _NAMES if row.get(name) in texts), "unknown")


def _device(database: sqlite3.Connection) -> str:
    names = (row[0] for row in database.execute("SELECT name FROM TARGET_INFO_GPU"))
    return ", ".join(dict.fromkeys(str(name) for name in names if name))
