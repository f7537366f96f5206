"""Which work is of which step, which steps count, and what there is none of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.steps import (
    StepRange,
    main_device,
    select,
    steps_of,
    with_steps,
    work_by_step,
)
from glmc.observe.timeline.table import Facts, StepKind, Timeline, TimelineEvent
from tests.observe.timeline.sample import DECODE, kernel, layered, timeline


def stepped(ranges: list[StepRange], *events: TimelineEvent) -> Timeline:
    return with_steps(Timeline("a", Facts("sample"), steps_of(ranges, events), events))


def test_a_kernel_is_of_the_step_that_launched_it() -> None:
    ranges = [StepRange("a", DECODE, 0, 10), StepRange("b", DECODE, 50, 60)]
    late = kernel("late", 70, 5, launched_us=40.0)  # launched after the range, before the next
    own = kernel("own", 75, 5, launched_us=51.0)
    early = kernel("early", 1, 1, launched_us=-5.0)
    made = stepped(ranges, early, late, own)
    assert [event.step for event in made.events] == [None, 0, 1]
    assert made.facts.remarks == ("1 events of the device are before the first step",)


def test_ranges_of_the_device_hold_what_runs_in_them() -> None:
    ranges = [StepRange("a", DECODE, 0, 10, True), StepRange("b", DECODE, 50, 60, True)]
    made = stepped(ranges, kernel("late", 70, 5, launched_us=40.0))
    assert made.events[0].step == 1


def test_without_ranges_the_file_is_one_step() -> None:
    made = stepped([], kernel("a", 5, 5), kernel("b", 30, 5))
    (step,) = made.steps
    assert step.name == "whole file" and set(work_by_step(made)) == {0}


def test_a_step_in_which_a_graph_ran_is_a_replay() -> None:
    ranges = [StepRange("a", DECODE, 0, 10), StepRange("b", DECODE, 50, 60)]
    graph = [kernel("g", at, 1, correlation="4") for at in (1, 2)]
    alone = kernel("c", 55, 1, correlation="5")
    made = stepped(ranges, *graph, alone)
    assert [step.replayed for step in made.steps] == [True, False]


def test_the_first_steps_are_left_out_but_never_more_than_half() -> None:
    for count, used in ((1, 1), (2, 1), (3, 2), (4, 2), (12, 10)):
        made = select(layered(3, steps=count), None, None)
        assert len(made.steps) == used and made.left_out == count - used
    assert "the first 2 left out as warm-up" in made.text
    asked = select(layered(3, steps=12), None, slice(3, 7))
    assert len(asked.steps) == 4 and "warm-up" not in asked.text
    assert asked.text.endswith("median step of 4, those that --steps names")


def test_a_step_without_work_does_not_count() -> None:
    made = layered(3, steps=4)
    events = tuple(event for event in made.events if event.step != 2)
    chosen = select(replace(made, events=events), None, slice(None))
    assert [step.number for step in chosen.steps] == [0, 1, 3]


def test_the_commonest_kind_is_shown_unless_a_phase_is_asked_for() -> None:
    made = layered(3, steps=5)
    prefill = StepKind("prefill", 1, 512)
    steps = (replace(made.steps[0], kind=prefill), *made.steps[1:])
    made = replace(made, steps=steps)
    assert select(made, None, None).kind == DECODE
    assert select(made, "prefill", None).kind == prefill
    with pytest.raises(UsageError, match="no step of phase 'mixed'"):
        select(made, "mixed", None)
    with pytest.raises(UsageError, match="leaves none"):
        select(made, None, slice(90, None))


def test_the_busiest_device_is_the_one_that_counts() -> None:
    other = replace(kernel("b", 0, 90), lane="device 1 stream 7")
    made = timeline(kernel("a", 0, 5), other)
    assert main_device(made) == "device 1"
    assert [event.name for event in work_by_step(made)[0]] == ["b"]
