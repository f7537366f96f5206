"""Calls timed by the host's clock: for whatever has computed when it returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter_ns
from types import TracebackType

from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.replay.bound_step import Sizes
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepTime, sizes_of
from glmc_runtime.replay.timeline.timer import DeviceGraph, Place

EXACT = "exact"
_Span = tuple[int, Place, int, int]


class HostTimer:
    """Keeps each call of each step that ran to its end. Times are since ``origin``, which is now
    where nobody says: a number of the system's monotonic clock, which all processes read alike."""

    def __init__(self, origin: int | None = None) -> None:
        self._steps: list[StepTime] = []
        self._spans: list[_Span] = []
        self._origin = perf_counter_ns() if origin is None else origin

    def __enter__(self) -> HostTimer:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @contextmanager
    def step(
        self, plan: PhasePlan, step: Sizes, *, replayed: bool, guarded: bool
    ) -> Iterator[None]:
        begin, before = perf_counter_ns(), len(self._spans)
        try:
            yield
        except BaseException:
            del self._spans[before:]
            raise
        times = self._us(begin), self._us(perf_counter_ns())
        number, sizes = len(self._steps), sizes_of(step)
        self._steps.append(StepTime(number, plan.name, sizes, replayed, guarded, *times))

    def call(self, place: Place) -> AbstractContextManager[object]:
        return _Call(self._spans, len(self._steps), place)

    def graph(self, graph: DeviceGraph) -> AbstractContextManager[object]:
        return self.call(f"device graph of {graph.key}")

    def recording(self) -> Recording:
        """What was timed."""
        calls = tuple(
            CallTime(step, place, self._us(begin), self._us(end))
            for step, place, begin, end in self._spans
        )
        return Recording(tuple(self._steps), calls, EXACT)

    def _us(self, clock: int) -> float:
        return (clock - self._origin) / 1000


class _Call(AbstractContextManager[object]):
    """Written out, as each call enters one."""

    __slots__ = ("_begin", "_place", "_spans", "_step")

    def __init__(self, spans: list[_Span], step: int, place: Place) -> None:
        self._spans, self._step, self._place = spans, step, place

    def __enter__(self) -> None:
        self._begin = perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end = perf_counter_ns()
        self._spans.append((self._step, self._place, self._begin, end))
