"""All-reduces in device graphs: how calls are counted, and what is said where a capture fails."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.collectives import captured as module
from glmc_runtime.collectives.captured import CALLS, Captured, calls_of, captured
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.measure import measure
from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.errors import GuardError
from glmc_runtime.replay.graph import GraphCaptureError

CARD = torch.device("cuda", 0)


class Graphs:
    """The thunks one after another, in place of a graph; or a capture that fails."""

    def __init__(self, fails: bool = False) -> None:
        self._fails = fails

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        if self._fails:
            raise GraphCaptureError("operation not permitted\nand more")
        return (lambda: [thunk() for thunk in thunks],)


def test_a_graph_has_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_graphs", lambda _: Graphs())
    done: list[int] = []
    thunk = captured(lambda: done.append(1), CARD, "library")
    thunk()
    assert len(done) == calls_of(thunk) == CALLS


def test_on_host_memory_there_is_no_graph() -> None:
    def thunk() -> None: ...

    assert captured(thunk, torch.device("cpu"), "library") is thunk and calls_of(thunk) == 1


def test_what_cannot_be_captured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_graphs", lambda _: Graphs(fails=True))
    with pytest.raises(GuardError, match="'ring' can't be captured") as caught:
        captured(lambda: None, CARD, "ring")
    assert caught.value.found == "operation not permitted"


def test_the_time_of_a_graph_is_that_of_one_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each call moves on by a millisecond."""
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 1e-3

    def replay() -> None:
        for _ in range(4):
            call()

    monkeypatch.setattr("time.perf_counter", lambda: now)
    thunks = {("graph", 8): Captured(replay, 4), ("host", 8): call}
    times = measure(Group(0, 1, None), thunks, 0.05, torch.device("cpu"))
    for case in thunks:
        assert times.typical(case) == pytest.approx(1e3)
