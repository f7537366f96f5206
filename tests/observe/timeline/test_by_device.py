"""Devices of one file beside each other: their parts, and who waits for whom."""

from __future__ import annotations

from dataclasses import replace

from glmc.observe.timeline.by_device import by_device
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.table import Kind, Timeline, TimelineEvent
from glmc.observe.timeline.totals import totals
from tests.observe.timeline.sample import kernel, timeline


def reduce(start: float, duration: float, call: int | None = 1) -> TimelineEvent:
    return replace(kernel("all_reduce", start, duration), kind=Kind.COLLECTIVE, call=call)


def on(device: int, *events: TimelineEvent) -> list[TimelineEvent]:
    return [replace(each, lane=f"rank {device} device 0 stream 0") for each in events]


def waiting(made: Timeline) -> dict[str, float | None]:
    rows = by_device(made, select(made, None, slice(None)))
    return {each.device: each.waiting_us for each in rows}


def test_one_device_has_no_table() -> None:
    made = timeline(kernel("a", 0, 4), kernel("b", 5, 4))
    assert by_device(made, select(made, None, slice(None))) == ()


def test_waiting_ends_when_the_last_has_come() -> None:
    """The first of two collectives is waited for by rank 0, the second by rank 1."""
    made = timeline(
        *on(0, kernel("a", 0, 10), reduce(10, 30), kernel("b", 40, 40), reduce(80, 5, call=2)),
        *on(1, kernel("a", 0, 35), reduce(35, 5), kernel("b", 40, 10), reduce(50, 35, call=2)),
    )
    assert waiting(made) == {"rank 0 device 0": 25, "rank 1 device 0": 30}


def test_all_devices_have_the_step_of_the_tables() -> None:
    """That of the median time of the busiest device, whichever takes longest on another."""
    times = ((10, 1), (20, 9), (40, 2))
    events = [
        replace(kernel("a", 100.0 * step, own[rank], step=step), lane=f"rank {rank} device 0 s 0")
        for step, own in enumerate(times)
        for rank in (0, 1)
    ]
    made = timeline(*events)
    shown = totals(made, select(made, None, slice(1, 3)))
    assert shown.step.number == 1
    assert [each.operators_us for each in shown.by_device] == [20, 9]


def test_one_that_not_all_have_is_not_waited_in() -> None:
    made = timeline(
        *on(0, reduce(0, 20), reduce(30, 10, call=2)),
        *on(1, kernel("a", 0, 15), reduce(15, 5)),
        *on(10, kernel("a", 0, 5), reduce(5, 15)),
    )
    found = waiting(made)
    assert [*found] == ["rank 0 device 0", "rank 1 device 0", "rank 10 device 0"]
    assert [*found.values()] == [15, 0, 10]


def test_without_calls_waiting_is_not_known() -> None:
    made = timeline(*on(0, reduce(0, 20, None)), *on(1, kernel("a", 0, 15), reduce(15, 5, None)))
    assert {*waiting(made).values()} == {None}
