"""Kernels in their order from ``nsys stats --report cuda_gpu_trace --format csv``.

There are no ranges and no launches of the host in it: the file is one step, and what a bubble
waited for is not known.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from glmc.errors import UsageError
from glmc.observe.timeline.op_class import kind_of
from glmc.observe.timeline.readers.chrome import number
from glmc.observe.timeline.steps import steps_of, with_steps
from glmc.observe.timeline.table import (
    DEVICE_LANE,
    NOT_OURS,
    Facts,
    Kind,
    Timeline,
    TimelineEvent,
)

_START = re.compile(r'^"?Start ?\((\w+)\)"?,', re.MULTILINE)
_SUMMARY = re.compile(r"^\"?Time \(%\)", re.MULTILINE)
_UNITS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
_NUMBERED = re.compile(r"\((\d+)\)\s*$")


def is_nsys_stats(text: str) -> bool:
    """Whether a text is a table of ``nsys stats``."""
    return _START.search(text) is not None or _SUMMARY.search(text) is not None


def read_nsys_stats(label: str, text: str) -> Timeline:
    """The table as a timeline. Raises UsageError for a report of sums, which has no times."""
    found = _START.search(text)
    if found is None:
        raise UsageError(
            "the table has sums and no times",
            place=label,
            expected="the report cuda_gpu_trace",
            remedy="nsys stats --report cuda_gpu_trace --format csv REPORT",
        )
    try:
        rows = list(_rows(text[found.start() :]))
    except csv.Error as error:
        raise UsageError(
            f"the table can't be read: {error}",
            place=label,
            expected="csv, as nsys stats prints it",
            remedy="nsys stats --report cuda_gpu_trace --format csv REPORT",
        ) from error
    events = tuple(sorted(rows, key=lambda event: event.start_us))
    facts = Facts(source="nsys stats", tried=False, attribution=NOT_OURS)
    return with_steps(Timeline(label, facts, steps_of((), events), events))


def _rows(text: str) -> Iterator[TimelineEvent]:
    for row in csv.DictReader(text.splitlines()):
        start, duration = _time(row, "Start"), _time(row, "Duration")
        name = row.get("Name") or ""
        if start is None or duration is None or duration < 0 or not name:
            continue
        numbered = _NUMBERED.search(row.get("Device") or "")
        memory = name.startswith("[CUDA mem")
        yield TimelineEvent(
            start,
            duration,
            f"{DEVICE_LANE} {numbered[1] if numbered else 0} stream {row.get('Strm') or '?'}",
            Kind.COPY if memory else kind_of(name),
            name,
            correlation=row.get("CorrId") or "",
        )


def _time(row: dict[str, str], column: str) -> float | None:
    """Microseconds of a column that has its unit in its heading."""
    for heading, value in row.items():
        found = re.match(rf"{column} ?\((\w+)\)$", heading or "")
        if found and found[1] in _UNITS and isinstance(value, str):
            try:
                plain = number(float(value.replace(",", "")))
            except ValueError:
                return None
            return None if plain is None else plain * _UNITS[found[1]]
    return None
