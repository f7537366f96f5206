"""Bubbles by their cause, and the parts of a step's time."""

from __future__ import annotations

import pytest

from glmc.observe.timeline.bubbles import GRAPH, HOST, QUEUED, UNKNOWN, StepTime, step_times
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Timeline
from tests.observe.timeline.sample import VLLM, kernel, timeline


def times(made: Timeline) -> dict[int, StepTime]:
    return step_times(made.steps, work_by_step(made))


def test_causes_of_gaps() -> None:
    made = timeline(
        kernel("a", 0, 10, queued_us=0),
        kernel("b", 14, 6, queued_us=13, correlation="9"),  # 3 of 4 us before it was queued
        kernel("c", 22, 4, queued_us=13, correlation="9"),  # of the same graph
        kernel("d", 27, 1, queued_us=5, correlation="10"),  # queued long ago
        kernel("e", 30, 1),  # nothing is known of its launch
    )
    bubbles = times(made)[0].bubbles
    assert bubbles.causes == {HOST: 3, GRAPH: 2, QUEUED: 2, UNKNOWN: 2}
    assert bubbles.count == 4 and bubbles.total_us == 9
    assert times(made)[0].time_us == 31


def test_a_step_begins_where_the_one_before_ended() -> None:
    made = timeline(kernel("a", 0, 10, queued_us=0), kernel("b", 30, 10, step=1, queued_us=29))
    second = times(made)[1]
    assert second.time_us == 30
    assert second.bubbles.causes[HOST] == 19 and second.bubbles.causes[QUEUED] == 1


def test_communication_is_what_no_operator_hides() -> None:
    made = timeline(kernel("nvjet_a", 0, 10), kernel("ncclDevKernel_AllReduce", 6, 10, stream=9))
    only = times(made)[0]
    assert only.communication_us == 6 and only.operators_us == 10 and only.time_us == 16


def test_the_parts_of_a_real_step_add_up() -> None:
    made = open_timeline(VLLM)
    found = times(made)
    for number in (1, 2):
        time = found[number]
        parts = time.operators_us + time.communication_us + time.bubbles.total_us
        assert parts == pytest.approx(time.time_us)
        period = max(e.end_us for e in time.events) - max(
            e.end_us for e in found[number - 1].events
        )
        assert time.time_us == pytest.approx(period, abs=0.01)
        assert time.bubbles.causes[HOST] > 1000 > 100 > time.bubbles.causes[GRAPH] > 0
