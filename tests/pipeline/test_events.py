"""What is told of a compile, to whom, and what one that raises keeps from the others: nothing."""

from __future__ import annotations

import pytest

from glmc.pipeline.events import (
    CurrentStage,
    Event,
    Observers,
    StageBegun,
    StageEnded,
    StepDone,
    stage,
)
from glmc.pipeline.runner import run
from tests.support.models import captured, tiny_config


class Heard:
    """Keeps what it hears, and raises ``error`` then."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[Event] = []
        self.error = error

    def observe(self, event: Event) -> None:
        self.events.append(event)
        if self.error is not None:
            raise self.error


def test_all_hear_what_makes_one_raise() -> None:
    before, raising, after = Heard(), Heard(KeyError("one")), Heard()
    event = StageBegun("capture")
    with pytest.raises(KeyError, match="one"):
        Observers(before, raising, after).observe(event)
    assert before.events == raising.events == after.events == [event]


def test_a_stage_is_told_with_its_seconds_unless_it_raises() -> None:
    heard, seconds = Heard(), dict[str, float]()
    with stage(heard, "capture", seconds):
        assert heard.events == [StageBegun("capture")]
    assert heard.events[1:] == [StageEnded("capture", seconds["capture"])]
    assert seconds["capture"] > 0
    with pytest.raises(KeyError), stage(heard, "passes", seconds):
        raise KeyError
    assert heard.events[2:] == [StageBegun("passes")] and "passes" not in seconds


def test_the_current_stage_is_the_last_that_has_begun() -> None:
    current = CurrentStage("reading")
    current.observe(StageEnded("reading", 1.0))
    assert current.name == "reading"
    current.observe(StageBegun("capture"))
    assert current.name == "capture"


def test_each_step_is_told_with_what_it_did() -> None:
    heard = Heard()
    phases = run(captured(tiny_config("glm4_moe")), 8, heard)
    steps = [event for event in heard.events if isinstance(event, StepDone)]
    *passes, prefill, decode = steps
    assert [event.record for event in passes] == list(phases.records[:-1])
    assert [event.stage for event in passes] == ["normal"] * 2 + ["fuse"] * 11 + ["page"]
    assert [prefill.program, decode.program] == list(phases.programs.values())
    assert (prefill.record, prefill.stage, decode.name) == (None, "phase", "decode")
    matched = next(event for event in passes if event.name == "rms_norm")
    assert matched.record is not None and matched.record.matches
