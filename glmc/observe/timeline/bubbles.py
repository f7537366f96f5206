"""Bubbles: time of a step in which the device has nothing to do, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmc.observe.timeline.device_time import DeviceTime, Gap, device_time
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection, device_work, graph_launches, work_by_step
from glmc.observe.timeline.table import Step, Timeline, TimelineEvent

HOST, GRAPH = "host prepares", "between kernels of a graph"
QUEUED, UNKNOWN = "between queued kernels", "cause not known"
CAUSES = (HOST, GRAPH, QUEUED, UNKNOWN)
"""While the host prepares nothing is queued; kernels of a graph are launched as one; what was
queued waits for the device alone; unknown where the file does not say when the host launched."""


@dataclass(frozen=True)
class Bubbles:
    """``count`` gaps, with the microseconds of each cause."""

    count: int
    causes: Mapping[str, float]

    @property
    def total_us(self) -> float:
        return sum(self.causes.values())


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


def selected_times(
    timeline: Timeline, selection: Selection, device: str | None = None
) -> tuple[StepTime, ...]:
    """The times of the selected steps, each since the one before it ended; those of ``device``, or
    of the busiest one."""
    work = work_by_step(timeline) if device is None else device_work(timeline, device)
    times = step_times(timeline.steps, work)
    return tuple(times[step.number] for step in selection.steps if step.number in times)


def median_time(times: Sequence[StepTime]) -> StepTime:
    """The step whose time is the median; of an even number the shorter one next to it."""
    return sorted(times, key=lambda time: time.time_us)[(len(times) - 1) // 2]


def median_step(timeline: Timeline, selection: Selection) -> StepTime:
    """The selected step whose time on the busiest device is the median: that of all tables."""
    return median_time(selected_times(timeline, selection))


def causes_of(gap: Gap, graphs: frozenset[str]) -> dict[str, float]:
    """The microseconds of a gap by their causes; ``graphs`` are the launches of device graphs."""
    after = gap.after
    same = gap.before is not None and gap.before.correlation == after.correlation
    if same and after.correlation in graphs:
        return {GRAPH: gap.duration_us}
    if after.queued_us is None:
        return {UNKNOWN: gap.duration_us}
    waited = min(max(after.queued_us - gap.start_us, 0.0), gap.duration_us)
    parts = {HOST: waited, QUEUED: gap.duration_us - waited}
    return {cause: part for cause, part in parts.items() if part}


def _bubbles(gaps: Sequence[Gap], graphs: frozenset[str]) -> Bubbles:
    sums = dict.fromkeys(CAUSES, 0.0)
    for gap in gaps:
        for cause, part in causes_of(gap, graphs).items():
            sums[cause] += part
    return Bubbles(len(gaps), sums)
