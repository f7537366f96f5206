"""Times the steps of ranks that are other processes of this host.

Each rank times its own calls by the system's monotonic clock, which all processes of a host read
alike, from one origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Protocol

from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.engine.ranks.messages import Encoder, Kind
from glmc_runtime.engine.ranks.recordings import recording_from_bytes
from glmc_runtime.engine.timeline import on_cards
from glmc_runtime.replay.timeline.records import Recording
from glmc_runtime.replay.timeline.step_times import timed_already


class Told(Protocol):
    """What tells all ranks the same; see :class:`glmc_runtime.engine.ranks.remote.Controller`."""

    def tell(self, message: bytes) -> None: ...
    def ask_all(self, kind: Kind) -> list[bytes]: ...


class RanksTimes:
    """See :class:`~glmc_runtime.replay.timeline.step_times.StepTimes`. ``devices`` are those of the
    ranks: kernels of a card are not timed from outside of its process."""

    def __init__(self, controller: Told, exclusive: Exclusive, devices: Sequence[str]) -> None:
        self._controller, self._exclusive, self._devices = controller, exclusive, devices
        self._timing = False

    def begin(self) -> None:
        """Also raises :class:`RequestError` for ranks on cards."""
        others = [device for device in self._devices if device != "cpu"]
        if others:
            raise on_cards(others[0])
        with self._exclusive:
            if self._timing:
                raise timed_already()
            self._controller.tell(Encoder.numbers(Kind.BEGIN_TIMES, perf_counter_ns()))
            self._timing = True

    def end(self) -> list[Recording]:
        with self._exclusive:
            self._timing = False
            return list(map(recording_from_bytes, self._controller.ask_all(Kind.END_TIMES)))
