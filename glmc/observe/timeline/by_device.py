"""A step on each device of a file that has several: the ranks of a model, above all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from glmc.observe.timeline.bubbles import StepTime, selected_times
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection, devices
from glmc.observe.timeline.table import Timeline, TimelineEvent

Place = tuple[int, int]
"""A step and a call of its plan, which all ranks come to."""
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class DeviceTotal:
    """The parts of a step on one device, medians over the steps. ``waiting_us`` is the time of its
    collectives in which not all devices had come to them; None where the file has no calls of
    plans, by which they are known to be one."""

    device: str
    time_us: float
    operators_us: float
    communication_us: float
    waiting_us: float | None
    bubbles_us: float | None


def by_device(timeline: Timeline, selection: Selection) -> tuple[DeviceTotal, ...]:
    """In the order of their numbers; empty where there is one device."""
    names = sorted(devices(timeline), key=lambda name: [*map(int, _NUMBERS.findall(name))])
    times = {name: selected_times(timeline, selection, name) for name in names}
    times = {name: some for name, some in times.items() if some}
    if len(times) < 2:
        return ()
    last = _last_arrivals(times)
    timed = timeline.facts.timed
    return tuple(
        DeviceTotal(
            name,
            _median(some, lambda time: time.time_us),
            _median(some, lambda time: time.operators_us),
            _median(some, lambda time: time.communication_us),
            _median(some, lambda time: _waiting(time, last)) if last else None,
            _median(some, lambda time: time.bubbles.total_us) if timed else None,
        )
        for name, some in times.items()
    )


def _median(times: Sequence[StepTime], value: Callable[[StepTime], float]) -> float:
    return float(median(map(value, times)))


def _collectives(time: StepTime) -> Iterator[tuple[Place, TimelineEvent]]:
    for event in time.events:
        if event.call is not None and op_class(event) == COLLECTIVE:
            yield (time.step.number, event.call), event


def _last_arrivals(times: Mapping[str, Sequence[StepTime]]) -> dict[Place, float]:
    """When the last device came to each collective that all of them have."""
    begun: dict[Place, dict[str, float]] = defaultdict(dict)
    for name, some in times.items():
        for time in some:
            for place, event in _collectives(time):
                begun[place][name] = event.start_us
    return {place: max(each.values()) for place, each in begun.items() if len(each) == len(times)}


def _waiting(time: StepTime, last: Mapping[Place, float]) -> float:
    return sum(
        min(max(last[place] - event.start_us, 0.0), event.duration_us)
        for place, event in _collectives(time)
        if place in last
    )
