"""Bubbles: time of a step in which the device has nothing to do, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmc.observe.timeline.device_time import DeviceTime, Gap, device_time
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import graph_launches
from glmc.observe.timeline.table import Step, TimelineEvent


@dataclass(frozen=True)
class Bubbles:
    """``count`` gaps of ``total_us``: while the host prepares and nothing is queued, between
    kernels of one device graph, and between kernels that were queued; ``unknown_us`` where the file
    does not say when the host launched."""

    count: int
    host_us: float
    graph_us: float
    queued_us: float
    unknown_us: float

    @property
    def total_us(self) -> float:
        return self.host_us + self.graph_us + self.queued_us + self.unknown_us


@dataclass(frozen=True)
class StepTime:
    """A step of one device: the time since the step before ended is ``time_us``, or for the first
    the time since its first kernel. It is what runs and the bubbles, and nothing else.

    ``communication_us`` is the part in which collectives alone run.
    """

    step: Step
    events: tuple[TimelineEvent, ...]
    device: DeviceTime
    bubbles: Bubbles
    communication_us: float

    @property
    def time_us(self) -> float:
        return self.device.busy_us + self.bubbles.total_us

    @property
    def operators_us(self) -> float:
        return self.device.busy_us - self.communication_us


def step_times(
    steps: Sequence[Step], work: Mapping[int, Sequence[TimelineEvent]]
) -> dict[int, StepTime]:
    """The time of each step that has work, by its number; ``steps`` are all of a file, in order."""
    found: dict[int, StepTime] = {}
    since: float | None = None
    last: TimelineEvent | None = None
    for step in steps:
        events = tuple(work.get(step.number, ()))
        if not events:
            continue
        time = device_time(events, since, last)
        graphs = graph_launches(events)
        operators = tuple(event for event in events if op_class(event) != COLLECTIVE)
        alone = device_time(operators, since, last).busy_us
        found[step.number] = StepTime(
            step,
            events,
            time,
            _bubbles(time.gaps, graphs),
            time.busy_us - alone,
        )
        ending = max(events, key=lambda event: event.end_us)
        if last is None or ending.end_us > last.end_us:
            since, last = ending.end_us, ending
    return found


def _bubbles(gaps: Sequence[Gap], graphs: frozenset[str]) -> Bubbles:
    host = graph = queued = unknown = 0.0
    for gap in gaps:
        after = gap.after
        same = gap.before is not None and gap.before.correlation == after.correlation
        if same and after.correlation in graphs:
            graph += gap.duration_us
        elif after.queued_us is None:
            unknown += gap.duration_us
        else:
            waited = min(max(after.queued_us - gap.start_us, 0.0), gap.duration_us)
            host += waited
            queued += gap.duration_us - waited
    return Bubbles(len(gaps), host, graph, queued, unknown)
