"""Times the steps of a machine whose calls are this process's own."""

from __future__ import annotations

import torch

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.replay.timeline.device_timer import DeviceTimer
from glmc_runtime.replay.timeline.host_timer import HostTimer
from glmc_runtime.replay.timeline.records import Recording
from glmc_runtime.replay.timeline.step_times import timed_already


class OwnTimes:
    """See :class:`~glmc_runtime.replay.timeline.step_times.StepTimes`. ``origin`` is that of a
    :class:`~glmc_runtime.replay.timeline.host_timer.HostTimer`."""

    def __init__(self, machine: Machine, origin: int | None = None) -> None:
        self._machine = machine
        device = machine.device
        self._timer = DeviceTimer(device) if device.type == "cuda" else HostTimer(origin)

    def begin(self) -> None:
        machine = self._machine
        with machine.exclusive:
            if any(phase.timer is not None for phase in machine.phases):
                raise timed_already()
            self._timer.__enter__()
            for phase in machine.phases:
                phase.timer = self._timer

    def end(self) -> tuple[Recording]:
        machine = self._machine
        with machine.exclusive:  # no step of another thread is half timed
            for phase in machine.phases:
                phase.timer = None
            self._timer.__exit__(None, None, None)
            with torch.inference_mode(), machine.stream_order.enter():
                return (self._timer.recording(),)
