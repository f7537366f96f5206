"""One step as lanes of bars: places, nesting of the host, bubbles, and rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.observe.timeline.bubbles import step_times
from glmc.observe.timeline.picture import BAR, Lane, Side, picture
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Kind, Timeline, TimelineEvent
from tests.observe.timeline.sample import VLLM, kernel, timeline


def side(made: Timeline, letter: str = "", step: int = 0) -> Side:
    times = step_times(made.steps, work_by_step(made))
    return Side(letter, made, times[step], lambda event: 3 if event.name == "b" else None)


def lanes(*sides: Side) -> dict[str, Lane]:
    return {lane.label: lane for lane in picture(sides).lanes}


def host(name: str, start: float, duration: float) -> TimelineEvent:
    return TimelineEvent(start, duration, "host thread 1", Kind.HOST, name)


def test_bars_are_where_their_times_are() -> None:
    made = timeline(kernel("a", 100, 10, queued_us=100), kernel("b", 120, 20, queued_us=118))
    found = lanes(side(made))
    first, second = found["device 0 stream 7"].bars
    assert (first.left, first.width) == (0, 25) and (second.left, second.width) == (50, 50)
    assert first.row is None and second.row == 3 and first.height == BAR
    (gap,) = found["bubbles"].bars
    assert (gap.left, gap.width) == (25, 25)
    assert "host prepares 8.0 us, between queued kernels 2.0 us" in gap.title


def test_the_host_is_shown_as_it_nests() -> None:
    made = timeline(
        kernel("a", 100, 50),
        host("out", 110, 30),
        host("in", 115, 5),
        host("next", 145, 2),
        host("before", 10, 20),
    )
    tops = {bar.title.split("\n")[0]: bar.top for bar in lanes(side(made))["host thread 1"].bars}
    assert set(tops) == {"out", "in", "next"}, "what ended before the step is not seen"
    assert tops["out"] == tops["next"] < tops["in"]


def test_lanes_of_all_devices() -> None:
    """Bubbles are of the one that the tables are of; what others did before is not seen."""
    other = replace(kernel("b", 110, 20), lane="rank 1 device 0 stream 0")
    made = timeline(
        replace(kernel("a", 100, 40), lane="rank 0 device 0 stream 0"),
        other,
        replace(other, start_us=5.0),
    )
    found = lanes(side(made))
    assert list(found) == [
        "rank 0 device 0 stream 0",
        "rank 1 device 0 stream 0",
        "bubbles of rank 0 device 0",
    ]
    (bar,) = found["rank 1 device 0 stream 0"].bars
    assert (bar.left, bar.width, bar.row) == (25, 50, 3)


def test_two_sides_have_one_axis_and_lanes_over_each_other() -> None:
    a = side(timeline(kernel("a", 0, 10), label="a"), "A")
    b = side(timeline(kernel("b", 500, 40), label="b"), "B")
    found = lanes(a, b)
    assert found["A device 0 stream 7"].bars[0].width == 25
    assert found["B device 0 stream 7"].bars[0].width == 100
    tops = [lane.top for lane in found.values()]
    assert tops == sorted(tops) and len(set(tops)) == len(tops)


def test_a_title_has_name_node_time_and_floor() -> None:
    made = timeline(
        kernel(
            "gemv",
            0,
            4,
            node="mlp.up#mm",
            floor_us=2.5,
            bytes=2048,
            layer=3,
            passes=("gate_up_merge",),
        )
    )
    (bar,) = lanes(side(made))["device 0 stream 7"].bars
    assert bar.title.split("\n") == [
        "gemv",
        "mlp.up#mm",
        "4.0 us, floor 2.5 us",
        "linear",
        "2.0 KiB",
        "layer 3",
        "passes: gate_up_merge",
    ]


def test_a_real_step_fills_its_axis() -> None:
    made = open_timeline(VLLM)
    drawn = picture([side(made, step=1)])
    bars = [bar for lane in drawn.lanes for bar in lane.bars]
    assert all(bar.left >= 0 and bar.left + bar.width <= 100.001 for bar in bars)
    work = [lane for lane in drawn.lanes if lane.label.startswith("device")]
    assert sum(len(lane.bars) for lane in work) == 289
    assert work[0].label == "device 0 stream 7", "the busiest first"
    assert 5 <= len(drawn.ticks) <= 10


@pytest.mark.parametrize("span", [1, 7, 3994.6, 1e6])
def test_marks_are_few_and_round(span: float) -> None:
    drawn = picture([side(timeline(kernel("a", 0, span)))])
    assert 1 <= len(drawn.ticks) <= 11 and drawn.ticks[0].label == "0 us"
