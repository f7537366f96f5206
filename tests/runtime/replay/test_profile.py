"""A profiler of the caller's names each replayed call, and only where that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import glmc_runtime
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.profile import call_range, graph_range, in_range


def decoded_ranges(session: Session) -> list[str]:
    """The ranges of one decode step, in the order in which they began."""
    sequence = session.sequence([1, 2, 3])
    session.prefill([sequence])
    session.decode([sequence], [4])
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        session.decode([sequence], [5])
    functions = {call.function for call in session.artifact.plans[DECODE.key].calls}
    events = sorted(profiler.events() or [], key=lambda event: event.time_range.start)
    names = [event.name for event in events]
    return [name for name in names if name.split(" ")[0] in functions | {"graph"}]


def test_each_call_has_a_range_with_its_function_and_node(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, profile_ranges=True, guard_steps=0)
    calls = session.artifact.plans[DECODE.key].calls
    assert decoded_ranges(session) == [call_range(call) for call in calls]
    assert all(f"{call.function} {call.node}" == call_range(call) for call in calls)


def test_without_the_option_no_thunk_is_wrapped(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, thunk: Thunk) -> Thunk:
        raise AssertionError(f"a range was made: {name}")

    monkeypatch.setattr("glmc_runtime.replay.bind.in_range", refuse)
    monkeypatch.setattr("glmc_runtime.replay.phase.in_range", refuse)
    assert decoded_ranges(glmc_runtime.load(toy_path, guard_steps=0)) == []


def test_a_guarded_step_and_the_unguarded_one_have_the_same_ranges(toy_path: Path) -> None:
    guarded = glmc_runtime.load(toy_path, profile_ranges=True, guard_steps=9)
    free = glmc_runtime.load(toy_path, profile_ranges=True, guard_steps=0)
    assert decoded_ranges(guarded) == decoded_ranges(free) != []


def test_a_device_graph_is_one_range(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneThunk:
        """Stands for a device's graphs: a segment becomes a single thunk."""

        on_device = True

        def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
            return (lambda: [thunk() for thunk in thunks],)

        def wait(self) -> None:
            pass

    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: OneThunk())
    session = glmc_runtime.load(toy_path, profile_ranges=True, guard_steps=0)
    plan = session.artifact.plans[DECODE.key]
    expected = [
        graph_range(plan.calls[segment.first], plan.calls[segment.last])
        for segment in plan.segments
        if segment.captured
    ]
    assert [name for name in decoded_ranges(session) if name.startswith("graph ")] == expected
    assert expected


def test_a_range_returns_what_the_call_returns_and_lets_its_error_through() -> None:
    assert in_range("r", lambda: 7)() == 7
    with pytest.raises(RuntimeError):
        in_range("r", lambda: torch.empty(2) @ torch.empty(3))()
