"""Device time: each instant once, shared among what runs in it."""

from __future__ import annotations

import pytest

from glmc.observe.timeline.device_time import device_time
from tests.observe.timeline.sample import kernel


def test_one_after_the_other_with_a_gap() -> None:
    first, second = kernel("a", 10, 5), kernel("b", 18, 2)
    made = device_time([first, second])
    assert made.charged == (5, 2) and made.busy_us == 7 and made.overlapped_us == 0
    (gap,) = made.gaps
    assert (gap.start_us, gap.end_us, gap.before, gap.after) == (15, 18, first, second)


def test_two_at_once_are_charged_half() -> None:
    made = device_time([kernel("a", 0, 10), kernel("b", 4, 4, stream=9)])
    assert made.charged == (8, 2)
    assert made.busy_us == 10 and made.overlapped_us == 4 and made.gaps == ()


def test_what_is_charged_adds_up_to_the_busy_time() -> None:
    events = [kernel("a", at * 3.0, 1 + at % 5, stream=at % 3) for at in range(40)]
    made = device_time(events)
    assert sum(made.charged) == pytest.approx(made.busy_us)


def test_nothing_counts_before_the_end_of_the_step_before() -> None:
    last = kernel("last", 0, 10)
    made = device_time([kernel("a", 8, 4), kernel("b", 15, 1)], 10, last)
    assert made.charged == (2, 1) and made.busy_us == 3
    assert [(gap.start_us, gap.end_us) for gap in made.gaps] == [(12, 15)]


def test_the_gap_after_the_step_before_counts() -> None:
    last = kernel("last", 0, 10)
    (gap,) = device_time([kernel("a", 14, 4)], 10, last).gaps
    assert gap.before is last and gap.duration_us == 4


def test_events_of_no_length_and_none_at_all() -> None:
    assert device_time([kernel("a", 5, 0)]).busy_us == 0
    assert device_time([]).busy_us == 0


def test_an_event_of_no_length_cuts_a_gap_in_two() -> None:
    first, mark, last = kernel("a", 0, 10), kernel("mark", 20, 0), kernel("b", 30, 10)
    gaps = device_time([first, mark, last]).gaps
    assert [(gap.start_us, gap.end_us) for gap in gaps] == [(10, 20), (20, 30)]
    assert gaps[1].before is mark and gaps[1].after is last
