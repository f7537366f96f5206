"""Ranges that the profiler records on any machine, and the graphs whose nodes are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.format.phases import DECODE
from glmc_runtime.replay.step import ScheduledTokens, Step
from glmc_runtime.replay.timeline import device_timer
from glmc_runtime.replay.timeline.attribution import NOTHING_RECORDED
from glmc_runtime.replay.timeline.device_timer import DeviceTimer
from glmc_runtime.replay.timeline.graph_nodes import Nodes
from glmc_runtime.replay.timeline.kineto import HostRange, Recorded
from glmc_runtime.replay.timeline.records import Recording
from glmc_runtime.replay.timeline.timer import DeviceGraph, Looked, Place

pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")
STEP = Step([ScheduledTokens((1,), 4, [1])], 2, 2, 4)


def recapture(look: Callable[[int], Looked]) -> Sequence[tuple[Place, Looked]]:
    raise AssertionError("nothing is captured here")


@pytest.fixture
def seen(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorded, dict[str, Nodes]]:
    """What is joined of a step with two calls and a graph, and of one that fails."""
    kept: list[tuple[Recorded, dict[str, Nodes]]] = []
    join = device_timer.recording_of

    def keep(recorded: Recorded, graphs: dict[str, Nodes], steps: object) -> Recording:
        kept.append((recorded, graphs))
        return join(recorded, graphs, steps)  # type: ignore[arg-type]

    monkeypatch.setattr(device_timer, "recording_of", keep)
    monkeypatch.setattr(device_timer, "graph_nodes", lambda recapture: "asked")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    plan = glmc_runtime.load(toy_path).artifact.plans[DECODE.key]
    timer = DeviceTimer(torch.device("cuda"))
    with timer:
        with timer.step(plan, STEP, replayed=True, guarded=False):
            for place in ("step inputs", 3):
                with timer.call(place):
                    torch.ones(2).add_(1)
            for bucket, again in ((4, recapture), (4, recapture), (8, None)):
                with timer.graph(DeviceGraph("decode", bucket, 0, again)):
                    pass
        with pytest.raises(ValueError), timer.step(plan, STEP, replayed=True, guarded=False):
            raise ValueError
    recording = timer.recording()
    assert recording.attribution == NOTHING_RECORDED
    (step,) = recording.steps
    assert (step.number, step.phase, step.replayed, step.sizes.context) == (0, "decode", True, 5)
    assert 0 <= step.begin < step.end
    return kept[0]


def names(ranges: Sequence[HostRange]) -> list[str]:
    return [each.name for each in ranges]


def test_ranges_are_read_back_as_they_were_named(seen: tuple[Recorded, dict[str, Nodes]]) -> None:
    recorded, _ = seen
    graphs = [f"graph decode, bucket {bucket}, segment 0" for bucket in (4, 4, 8)]
    expected = ["step 0", "call step inputs", "call 3", *graphs, "step 1"]
    assert names(recorded.ranges) == expected
    first, *inner, _ = recorded.ranges
    assert all(first.begin <= each.begin <= each.end <= first.end for each in inner)
    assert recorded.launches == recorded.work == ()


def test_each_graph_is_asked_for_once(seen: tuple[Recorded, dict[str, Nodes]]) -> None:
    assert seen[1] == {
        "decode, bucket 4, segment 0": "asked",
        "decode, bucket 8, segment 0": "a graph of one rank of several can't be captured by itself",
    }
