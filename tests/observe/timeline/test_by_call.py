"""Times of calls: of each phase those of its median step, as data and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from glmc.observe.timeline.by_call import side_calls, side_from_json, side_to_json
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.totals import totals
from tests.observe.timeline.sample import VLLM, kernel, noisy
from tests.observe.timeline.toy import NODES, toy_timeline


def test_each_call_of_each_phase() -> None:
    made = toy_timeline()
    side = side_calls(made, select(made, "decode", None))
    assert (side.label, side.model, side.target, side.how) == (
        *("run.json", "toy-moe", "xpu"),
        "emulated",
    )
    decode, prefill = side.phases["decode"], side.phases["prefill"]
    assert [(each.call, each.node, each.us) for each in decode.calls] == [
        (at, node, at + 1.0) for at, node in enumerate(NODES)
    ]
    assert decode.shown and not prefill.shown
    assert "median step of 3, the first 2 left out as warm-up" in decode.steps
    assert [each.us for each in prefill.calls] == [at + 6.0 for at in range(7)]


def test_calls_add_up_to_the_busy_time_of_the_tables() -> None:
    made = noisy()
    chosen = select(made, None, None)
    for side in (side_calls(made), side_calls(made, chosen)):
        calls = side.phases["decode"].calls
        assert sum(each.us for each in calls) == pytest.approx(totals(made, chosen).busy_us)


def test_the_steps_that_a_page_shows_are_those_that_count() -> None:
    made = toy_timeline()
    side = side_calls(made, select(made, "decode", slice(0, 2)))
    assert side.phases["decode"].calls[0].us == 6.0


def test_kernels_of_one_call_are_added_up_and_others_left_out() -> None:
    made = toy_timeline()
    second = replace(kernel("again", 3017, 2, step=3), node=NODES[0], call=0)
    other = kernel("beside", 3018.5, 1, step=3)
    (step,) = (each for each in made.steps if each.number == 3)
    events = tuple(sorted((*made.events, second, other), key=lambda event: event.start_us))
    side = side_calls(replace(made, steps=(step,), events=events))
    # Of the half microsecond in which both run each is charged a half.
    assert side.phases["decode"].calls[0].us == 1 + 1.75
    assert sum(each.us for each in side.phases["decode"].calls) == 28 + 1.75


def test_files_of_others_have_none() -> None:
    side = side_calls(open_timeline(VLLM))
    assert side.phases == {} and side.how == ""


def test_there_and_back() -> None:
    side = side_calls(toy_timeline(emulated=False, interpreted=True))
    assert side.how == "interpreted"
    assert side_from_json(json.loads(json.dumps(side_to_json(side)))) == side
