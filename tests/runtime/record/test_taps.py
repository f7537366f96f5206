"""Taps: inside what is captured, for the buckets that are recorded, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.errors import CapacityError
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.generate.session import Session
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record import taps as taps_module
from glmc_runtime.record.artifact import record_values
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import recorded_values
from glmc_runtime.record.taps import tap_groups
from glmc_runtime.replay.bind import PhaseBinder
from glmc_runtime.replay.bound_step import Part
from tests.runtime.record.recorded import MemorySink, differing, values_of_plans
from tests.runtime.replay.test_phase import FakeGraphs
from tests.runtime.toy import toy_plan

PROMPTS = ((3, 14, 15), (9, 2, 6), (1, 2))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """Those of every device from here on."""
    made = FakeGraphs()
    choose: Callable[[torch.device, bool], FakeGraphs] = lambda device, emulated: made  # noqa: E731
    monkeypatch.setattr(loaded_module, "graphs_for", choose)
    return made


def recorded(path: Path, run: ArtifactRun, steps: int = 3) -> MemorySink:
    artifact, sink = load_artifact(path), MemorySink()
    options = RecordOptions(PROMPTS, steps=steps)
    record_values(artifact, values_of_plans(artifact.plans), sink, options, run)
    return sink


def test_taps_are_captured_with_the_segment_that_they_stand_in(
    toy_path: Path, graphs: FakeGraphs
) -> None:
    replayed = recorded(toy_path, ArtifactRun())
    # Of decode's bucket of 4 alone: six calls with a copy of each of their seven buffers, a host
    # call between the two graphs, and two calls with a copy each.
    assert graphs.captured == [6 + 7, 2 + 2]
    assert graphs.replays == 2 * 3
    called = recorded(toy_path, ArtifactRun(graph=False))
    assert len(graphs.captured) == 2
    assert differing(replayed, called) == []


def test_graphs_of_all_groups_share_the_tap_memory(
    toy_path: Path, graphs: FakeGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Arena(taps_module.Arena):
        def __init__(self, size: int, device: torch.device) -> None:
            super().__init__(size, device)
            sizes.append(size)

    monkeypatch.setattr("glmc_runtime.record.machine.Arena", Arena)
    limit = 8 * 72 * 4
    small = recorded(toy_path, ArtifactRun(tap_memory=limit))
    assert len(sizes) == 1
    assert sizes[0] <= limit
    groups = len(graphs.captured) // 2
    assert groups > 1
    assert sum(graphs.captured) == groups * 8 + 9  # the calls for each, a copy of a value once
    assert graphs.replays == 2 * 3 * groups
    assert differing(small, recorded(toy_path, ArtifactRun())) == []


def _thunks(session: Session) -> list[int]:
    """Of one step of each phase, by segment."""
    sequence = session.sequence([1, 2, 3])
    session.prefill([sequence])
    session.decode([sequence], [1])
    replays = [session._replays[phase.key] for phase in (PREFILL, DECODE)]
    steps = [next(iter(replay._steps.values())) for replay in replays]
    for step in steps:
        assert sum(map(len, step.segments)) == len(step.thunks[Part.WHOLE])
    return [len(segment) for step in steps for segment in step.segments]


def test_a_session_without_taps_has_the_thunks_of_its_calls_and_no_more(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, guard_steps=0)
    calls = [
        segment.last - segment.first + 1
        for phase in (PREFILL, DECODE)
        for segment in toy_plan(phase.name).segments
    ]
    assert _thunks(session) == calls
    recorded(toy_path, ArtifactRun())
    assert _thunks(session) == calls
    for phase in (PREFILL, DECODE):
        assert type(session._replays[phase.key]._binder) is PhaseBinder


@pytest.mark.parametrize("limit", [4096, 10_000, 1 << 30])
def test_groups_go_through_the_values_in_their_order(limit: int) -> None:
    plan = toy_plan("prefill")
    rows = values_of_plans({PREFILL.key: plan}).phases["prefill"]
    values = recorded_values(plan, rows, RecordOptions(PROMPTS))
    groups = tap_groups(plan, values, {"tokens": 16, "sequences": 4}, limit)
    assert tuple(each for group in groups for each in group.values) == values
    for group in groups:
        offsets = [offset for offset in group.offsets if offset is not None]
        assert offsets == sorted(set(offsets))
        assert all(offset % 64 == 0 for offset in offsets)
        assert group.size <= limit
    assert (len(groups) == 1) is (limit == 1 << 30)
    cached = [each.value.cache is not None for group in groups for each in group.values]
    assert cached == [offset is None for group in groups for offset in group.offsets]


def test_nothing_asked_for_is_one_replay() -> None:
    (group,) = tap_groups(toy_plan("decode"), (), {"tokens": 4, "sequences": 4}, 1)
    assert (group.values, group.size) == ((), 0)


def test_tap_memory_that_the_device_has_not_is_an_error_with_a_remedy(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(size: int, device: torch.device) -> Any:
        raise CapacityError("the arena does not fit into memory")

    monkeypatch.setattr("glmc_runtime.record.machine.Arena", full)
    with pytest.raises(CapacityError, match="tap memory does not fit") as caught:
        recorded(toy_path, ArtifactRun())
    assert "--tap-memory" in str(caught.value)
