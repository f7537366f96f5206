"""A session's timeline: each call of each step once, and nothing of it in a session without one."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.errors import PlanError, RequestError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.plan import place_of
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.bound_step import Part
from glmc_runtime.replay.graph import CudaGraphs
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.timeline.host_timer import HostTimer
from glmc_runtime.replay.timeline.timer import DeviceGraph, Looked


def recorded(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a file that are no names of lanes, and what it says of itself."""
    data = json.loads(file.read_text())
    return [event for event in data["traceEvents"] if event["ph"] == "X"], data["glmc"]


def phase_of(session: Session, name: str) -> PhaseReplay:
    return next(each for each in session._machine.phases if each._plan.name == name)


def decode_calls(session: Session) -> tuple[str, ...]:
    """The Python functions that a decode step calls."""
    sequence = session.sequence([1, 2, 3])
    session.prefill([sequence])
    session.decode([sequence], [4])
    called: list[str] = []

    def see(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")

    sys.setprofile(see)
    try:
        session.decode([sequence], [5])
    finally:
        sys.setprofile(None)
    session.release(sequence)
    return tuple(called)


@pytest.mark.parametrize("guard_steps", [0, 2])
def test_each_call_of_each_step_is_there_once(
    toy_path: Path, tmp_path: Path, guard_steps: int
) -> None:
    session, file = glmc_runtime.load(toy_path, guard_steps=guard_steps), tmp_path / "t.json"
    with session.timeline(file):
        session.generate([[1, 2, 3], [4]], max_new_tokens=3, ignore_eos=True)
    events, about = recorded(file)
    assert about["attribution"] == "exact" and about["format"] == 1
    assert (about["model"], about["target"], about["device"]) == ("toy", "cpu", "cpu")
    steps = [event for event in events if event["cat"] == "step"]
    assert [step["name"] for step in steps] == ["step 0 prefill", "step 1 decode", "step 2 decode"]
    assert [step["args"]["tokens"] for step in steps] == [4, 2, 2]
    assert [step["args"]["context"] for step in steps] == [4, 6, 8]
    plans = {plan.name: plan for plan in session.artifact.plans.values()}
    for step in steps:
        number = step["args"]["step"]
        calls = [
            event for event in events if event["cat"] != "step" and event["args"]["step"] == number
        ]
        plan = plans[step["args"]["phase"]]
        assert [event["args"]["call"] for event in calls] == list(range(len(plan.calls)))
        for event, call in zip(calls, plan.calls, strict=True):
            args = event["args"]
            assert (args["node"], args["op"]) == (call.node, call.origin)
            assert (args["layer"], args["module"]) == (call.layer, call.module)
            assert (args["function"], args["phase"]) == (call.function, plan.name)
            assert event["name"] == f"{call.function} {call.node}"
            assert event["ts"] >= step["ts"]
            assert event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 0.002
        assert sum(event["dur"] for event in calls) <= step["dur"]


def test_streams_and_steps_of_the_callers_own_are_timed(session: Session, tmp_path: Path) -> None:
    with session.timeline(tmp_path / "stream.json"):
        list(session.stream([[1, 2]], max_new_tokens=2, ignore_eos=True))
    with session.timeline(tmp_path / "decode.json"):
        sequence = session.sequence([1, 2, 3])
        session.prefill([sequence])
        session.decode([sequence], [4])
    for name in ("stream", "decode"):
        steps = Counter(
            event["args"]["phase"]
            for event in recorded(tmp_path / f"{name}.json")[0]
            if event["cat"] == "step"
        )
        assert steps == {"prefill": 1, "decode": 1}


def test_answers_are_those_of_a_session_without_one(toy_path: Path, tmp_path: Path) -> None:
    timed, free = glmc_runtime.load(toy_path), glmc_runtime.load(toy_path)
    with timed.timeline(tmp_path / "t.json"):
        found = timed.generate([[1, 2, 3]], max_new_tokens=5, ignore_eos=True)
    assert found == free.generate([[1, 2, 3]], max_new_tokens=5, ignore_eos=True)


def test_nothing_of_it_is_in_a_step_without_one(session: Session, tmp_path: Path) -> None:
    """The bound step is the same object with the same thunks, and Python calls the same functions
    before a timeline and after it."""
    before = decode_calls(session)
    phase = phase_of(session, "decode")
    bound = {key: (step, step.thunks[Part.WHOLE]) for key, step in phase._steps.items()}
    with session.timeline(tmp_path / "t.json"):
        within = decode_calls(session)
    assert {key: (step, step.thunks[Part.WHOLE]) for key, step in phase._steps.items()} == bound
    assert all(phase._steps[key] is step for key, (step, _) in bound.items())
    assert decode_calls(session) == before
    assert not any("timeline" in name or "_called" in name for name in before)
    assert any("timeline" in name for name in within)


def test_a_step_takes_no_more_lookups_than_its_thunks_need() -> None:
    """Of a step that is nothing but its thunks: whether it is timed, and whether it is plain."""
    names = PhaseReplay._run_part.__code__.co_names
    assert names[:2] == ("_plain", "_run")
    assert "_timer" not in names


def test_a_device_graph_can_be_captured_once_more(
    toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thunks are those of its segment, with what each is for."""

    class Graphs(CudaGraphs):
        """Stands for a device's: a segment becomes one thunk."""

        def __init__(self) -> None:
            pass

        def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
            return (lambda: [thunk() for thunk in thunks],)

        def captured_again(
            self, thunks: tuple[Thunk, ...], look: Callable[[int], Looked]
        ) -> list[Looked]:
            return [look(number) for number, _ in enumerate(thunks)]

        def wait(self) -> None:
            pass

    asked: list[DeviceGraph] = []
    graph = HostTimer.graph

    def keep(timer: HostTimer, found: DeviceGraph) -> AbstractContextManager[object]:
        asked.append(found)
        return graph(timer, found)

    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: Graphs())
    monkeypatch.setattr(HostTimer, "graph", keep)
    session, file = glmc_runtime.load(toy_path, guard_steps=0), tmp_path / "t.json"
    with session.timeline(file):
        session.generate([[1, 2, 3]], max_new_tokens=2, ignore_eos=True)
    plan = phase_of(session, "decode")._plan
    captured = [number for number, segment in enumerate(plan.segments) if segment.captured]
    assert [(each.phase, each.bucket, each.segment) for each in asked] == [
        ("decode", 1, number) for number in captured
    ]
    for each in asked:
        assert each.recapture is not None
        segment = plan.segments[each.segment]
        assert [place for place, _ in each.recapture(lambda stream: stream)] == list(
            range(segment.first, segment.last + 1)
        )
    step = [event["args"] for event in recorded(file)[0] if event["cat"] == "step"][1]
    assert step["replayed"] is True


def test_one_timeline_at_a_time(session: Session, tmp_path: Path) -> None:
    with session.timeline(tmp_path / "a.json"):
        second = session.timeline(tmp_path / "b.json")
        with pytest.raises(RequestError, match="is being written"), second:
            pass
        session.generate([[1]], max_new_tokens=1)
    assert recorded(tmp_path / "a.json")[0]


def test_a_body_that_fails_leaves_a_file_and_no_timer(session: Session, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), session.timeline(tmp_path / "t.json"):
        session.generate([[1]], max_new_tokens=1)
        raise KeyboardInterrupt
    assert [event["cat"] for event in recorded(tmp_path / "t.json")[0]].count("step") == 1
    assert all(phase.timer is None for phase in session._machine.phases)


def test_an_error_of_a_kernel_names_its_call(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binder = phase_of(session, "prefill")._binder
    bind = binder._bind_call

    def fail() -> None:
        raise ValueError("of a kernel")

    def broken(place: int, symbols: Symbols) -> Thunk:
        return fail if place == 2 else bind(place, symbols)

    monkeypatch.setattr(binder, "_bind_call", broken)
    with session.timeline(tmp_path / "t.json"), pytest.raises(PlanError) as caught:
        session.prefill([session.sequence([1, 2, 3])])
    assert caught.value.place == place_of(binder.plan.calls[2])


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    session: Session, tmp_path: Path
) -> None:
    nowhere = session.timeline(tmp_path / "no" / "t.json")
    with pytest.raises(RequestError, match="can't be written"), nowhere:
        raise AssertionError("the body ran")
