"""Chrome's trace format as different writers have it, and rows that say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.observe.timeline.readers.chrome import chrome_trace


def complete(name: str, ts: Any, dur: Any, **fields: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": 2, **fields}


def test_events_in_the_order_of_their_start_the_longer_first() -> None:
    made = chrome_trace([complete("b", 5, 1), complete("in", 1, 2), complete("out", 1, 9)])
    assert made is not None
    assert [event.name for event in made.events] == ["out", "in", "b"]


def test_begin_and_end_are_one_event() -> None:
    rows = [
        {"ph": "B", "name": "out", "ts": 1, "pid": 1, "tid": 1, "args": {"a": 1}},
        {"ph": "B", "name": "in", "ts": 2, "pid": 1, "tid": 1},
        {"ph": "E", "ts": 4, "pid": 1, "tid": 1},
        {"ph": "E", "ts": 9, "pid": 1, "tid": 1},
        {"ph": "E", "ts": 11, "pid": 1, "tid": 1},
    ]
    made = chrome_trace({"traceEvents": rows, "head": 1})
    assert made is not None and made.head == {"head": 1} and made.left_out == 1
    assert [(event.name, event.duration_us) for event in made.events] == [("out", 8), ("in", 2)]


def test_names_of_lanes() -> None:
    rows = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "device 0"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "stream 7 "}},
        complete("a", 0, 1),
    ]
    made = chrome_trace(rows)
    assert made is not None and made.lane_name(made.events[0].lane) == "device 0 stream 7"


@pytest.mark.parametrize("time", [None, "now", float("nan"), float("inf"), True, 10**400])
def test_an_event_without_a_time_is_counted(time: Any) -> None:
    made = chrome_trace([complete("a", time, 1), complete("b", 1, time), complete("c", 1, 1)])
    assert made is not None and made.left_out == 2
    assert [event.name for event in made.events] == ["c"]


@pytest.mark.parametrize("document", [{}, [], 3, "x", None, {"traceEvents": 4}, [1, 2], [{"a": 1}]])
def test_what_has_no_events_is_no_trace(document: Any) -> None:
    assert chrome_trace(document) is None
