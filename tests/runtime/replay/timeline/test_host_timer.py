"""Calls by the host's clock: each within its step, and a step that fails is not there."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import glmc_runtime
from glmc_runtime.format.phases import DECODE
from glmc_runtime.replay.step import ScheduledTokens, Step
from glmc_runtime.replay.timeline.host_timer import HostTimer
from glmc_runtime.replay.timeline.records import StepSizes, sizes_of


def test_each_call_is_timed_within_its_step(toy_path: Path) -> None:
    plan = glmc_runtime.load(toy_path).artifact.plans[DECODE.key]
    timer = HostTimer()
    for _ in range(2):
        step = Step([ScheduledTokens((1,), 4, [1])], 2, 2, 4)
        with timer.step(plan, step, replayed=False, guarded=True):
            with timer.call(3):
                time.sleep(0.002)
            with timer.call("step inputs"):
                pass
    recording = timer.recording()
    assert recording.attribution == "exact"
    assert [(step.number, step.phase, step.guarded) for step in recording.steps] == [
        (0, "decode", True),
        (1, "decode", True),
    ]
    assert [(call.step, call.place) for call in recording.calls] == [
        (0, 3),
        (0, "step inputs"),
        (1, 3),
        (1, "step inputs"),
    ]
    for call in recording.calls:
        assert call.step is not None
        step_time = recording.steps[call.step]
        assert step_time.begin <= call.begin <= call.end <= step_time.end
    assert all(call.end - call.begin >= 2000 for call in recording.calls if call.place == 3)


def test_a_step_that_fails_leaves_nothing(toy_path: Path) -> None:
    plan = glmc_runtime.load(toy_path).artifact.plans[DECODE.key]
    timer, step = HostTimer(), Step([ScheduledTokens((1,), 4, [1])], 1, 1, 4)
    with pytest.raises(ValueError), timer.step(plan, step, replayed=False, guarded=False):
        with timer.call(0):
            pass
        raise ValueError
    assert timer.recording().steps == timer.recording().calls == ()


def test_sizes_count_what_is_read_of_the_cache() -> None:
    """Two new tokens after three attend to 4 and 5 keys, one after seven to 8."""
    chunks = [ScheduledTokens((1, 2), 3, [1, 2]), ScheduledTokens((3,), 7, [3, 4])]
    assert sizes_of(Step(chunks, 8, 2, 4)) == StepSizes(3, 2, 8, 13, 17)


def test_an_outer_engines_lengths_are_not_known() -> None:
    step = SimpleNamespace(sizes={"tokens": 8, "sequences": 4}, real={"tokens": 5, "sequences": 3})
    assert sizes_of(step) == StepSizes(5, 3, 8, None, None)
