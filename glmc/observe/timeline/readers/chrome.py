"""Chrome's trace format, which most profilers write: complete events, and names of their lanes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

Lane = tuple[str, str]
"""A process and a thread, as text: some profilers write names, some numbers."""


@dataclass(frozen=True)
class ChromeEvent:
    """A complete event; ``category`` is empty where there is none."""

    name: str
    category: str
    lane: Lane
    start_us: float
    duration_us: float
    args: Mapping[str, Any]

    @property
    def end_us(self) -> float:
        return self.start_us + self.duration_us


@dataclass(frozen=True)
class ChromeTrace:
    """``events`` ascend by their start, the longer first; ``head`` is the document without them.
    ``left_out`` counts events that have no time."""

    head: Mapping[str, Any]
    events: tuple[ChromeEvent, ...]
    processes: Mapping[str, str] = field(default_factory=dict)
    threads: Mapping[Lane, str] = field(default_factory=dict)
    left_out: int = 0

    def lane_name(self, lane: Lane) -> str:
        """The names of a lane's process and thread, as far as the file has them."""
        process = self.processes.get(lane[0], "")
        thread = self.threads.get(lane, "")
        return " ".join(dict.fromkeys(filter(None, (process, thread))))


def event_count(document: Any) -> int:
    """How many events a JSON document has."""
    raw = _raw(document)
    return len(raw) if isinstance(raw, list) else 0


def _raw(document: Any) -> Any:
    return document.get("traceEvents") if isinstance(document, dict) else document


def chrome_trace(document: Any) -> ChromeTrace | None:
    """The trace in a JSON document, None for one that has no events."""
    raw = _raw(document)
    if not isinstance(raw, list) or not any(
        isinstance(each, dict) and "ph" in each for each in raw
    ):
        return None
    head = document if isinstance(document, dict) else {}
    rows = [each for each in raw if isinstance(each, dict)]
    events, left_out = _complete(rows)
    processes, threads = _names(rows)
    return ChromeTrace(
        {name: value for name, value in head.items() if name != "traceEvents"},
        tuple(sorted(events, key=lambda event: (event.start_us, -event.duration_us))),
        processes,
        threads,
        left_out,
    )


def number(value: Any) -> float | None:
    """A finite number of a file, None for anything else."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return float(value) if plain and isfinite(value) else None
    except OverflowError:  # more digits than any number of ours
        return None


def _lane(row: Mapping[str, Any]) -> Lane:
    return str(row.get("pid", "")), str(row.get("tid", ""))


def _args(row: Mapping[str, Any]) -> Mapping[str, Any]:
    args = row.get("args")
    return args if isinstance(args, dict) else {}


def _complete(rows: Iterable[Mapping[str, Any]]) -> tuple[list[ChromeEvent], int]:
    """Complete events, and begin and end events as one."""
    made: list[ChromeEvent] = []
    open_: dict[Lane, list[tuple[Mapping[str, Any], float]]] = defaultdict(list)
    left_out = 0
    for row in rows:
        phase, start = row.get("ph"), number(row.get("ts"))
        if phase not in ("X", "B", "E"):
            continue
        duration = number(row.get("dur", 0)) if phase == "X" else 0.0
        if start is None or duration is None or duration < 0:
            left_out += 1
        elif phase == "X":
            made.append(_event(row, start, duration))
        elif phase == "B":
            open_[_lane(row)].append((row, start))
        elif open_[_lane(row)]:
            begun, at = open_[_lane(row)].pop()
            made.append(_event(begun, at, max(0.0, start - at)))
        else:
            left_out += 1
    return made, left_out + sum(map(len, open_.values()))


def _event(row: Mapping[str, Any], start: float, duration: float) -> ChromeEvent:
    return ChromeEvent(
        str(row.get("name", "")), str(row.get("cat", "")), _lane(row), start, duration, _args(row)
    )


def _names(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], dict[Lane, str]]:
    processes: dict[str, str] = {}
    threads: dict[Lane, str] = {}
    for row in rows:
        name = _args(row).get("name")
        if row.get("ph") == "M" and isinstance(name, str):
            if row.get("name") == "process_name":
                processes[_lane(row)[0]] = name.strip()
            elif row.get("name") == "thread_name":
                threads[_lane(row)] = name.strip()
    return processes, threads
