"""The step of the tables on each device of a file that has several: the ranks of a model, above
all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from glmc.observe.timeline.bubbles import StepTime, median_step, step_times
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection, device_work, devices
from glmc.observe.timeline.table import Timeline, TimelineEvent

_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class DeviceTotal:
    """The parts of the step on one device. ``waiting_us`` is the time of its collectives in which
    not all devices had come to them; None where the file has no calls of plans, by which they are
    known to be one."""

    device: str
    time_us: float
    operators_us: float
    communication_us: float
    waiting_us: float | None
    bubbles_us: float | None


def by_device(timeline: Timeline, selection: Selection) -> tuple[DeviceTotal, ...]:
    """In the order of their numbers; empty where there is one device."""
    shown = median_step(timeline, selection).step.number
    names = sorted(devices(timeline), key=lambda name: [*map(int, _NUMBERS.findall(name))])
    found = {name: step_times(timeline.steps, device_work(timeline, name)) for name in names}
    times = {name: some[shown] for name, some in found.items() if shown in some}
    if len(times) < 2:
        return ()
    last = _last_arrivals(times)
    timed = timeline.facts.timed
    return tuple(
        DeviceTotal(
            name,
            time.time_us,
            time.operators_us,
            time.communication_us,
            _waiting(time, last) if last else None,
            time.bubbles.total_us if timed else None,
        )
        for name, time in times.items()
    )


def _collectives(time: StepTime) -> Iterator[tuple[int, TimelineEvent]]:
    """With their calls in the plan, which all ranks come to."""
    for event in time.events:
        if event.call is not None and op_class(event) == COLLECTIVE:
            yield event.call, event


def _last_arrivals(times: Mapping[str, StepTime]) -> dict[int, float]:
    """When the last device came to each collective that all of them have."""
    begun: dict[int, dict[str, float]] = defaultdict(dict)
    for name, time in times.items():
        for call, event in _collectives(time):
            begun[call][name] = event.start_us
    return {call: max(each.values()) for call, each in begun.items() if len(each) == len(times)}


def _waiting(time: StepTime, last: Mapping[int, float]) -> float:
    return sum(
        min(max(last[call] - event.start_us, 0.0), event.duration_us)
        for call, event in _collectives(time)
        if call in last
    )
