"""Timing the steps of this process: on a device by its profiler, which is entered and left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch

from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.own_times import OwnTimes
from glmc_runtime.errors import RequestError
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.timeline.attribution import NOTHING_RECORDED
from glmc_runtime.replay.timeline.host_timer import EXACT


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(("device", "said"), [("cpu", EXACT), ("cuda", NOTHING_RECORDED)])
def test_it_begins_and_ends(
    toy_path: Path, device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    machine = assemble(load_artifact(toy_path), LoadOptions())
    times = OwnTimes(replace(machine, device=torch.device(device)))
    times.begin()
    assert all(phase.timer is not None for phase in machine.phases)
    with pytest.raises(RequestError, match="is being written"):
        OwnTimes(machine).begin()
    (recording,) = times.end()
    assert (recording.steps, recording.calls, recording.attribution) == ((), (), said)
    assert all(phase.timer is None for phase in machine.phases)


def test_what_can_not_end_is_timed_no_longer_and_no_step_runs_meanwhile(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = assemble(load_artifact(toy_path), LoadOptions())
    times = OwnTimes(machine)
    free: list[bool] = []

    def step_of_another_thread() -> None:
        free.append(machine.exclusive._lock.acquire(blocking=False))

    def fails(*_: object) -> None:
        thread = Thread(target=step_of_another_thread)
        thread.start()
        thread.join()
        raise RuntimeError("the profiler")

    monkeypatch.setattr(times._timer, "__exit__", fails)
    times.begin()
    with pytest.raises(RuntimeError, match="the profiler"):
        times.end()
    assert free == [False]
    assert all(phase.timer is None for phase in machine.phases)
