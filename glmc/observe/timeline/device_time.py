"""The time of a device, cut into what runs: each instant counts once, however many streams work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmc.observe.timeline.table import TimelineEvent


@dataclass(frozen=True)
class Gap:
    """Time in which nothing runs, between ``before``, the last event that ended, and ``after``."""

    start_us: float
    end_us: float
    before: TimelineEvent | None
    after: TimelineEvent

    @property
    def duration_us(self) -> float:
        return self.end_us - self.start_us


@dataclass(frozen=True)
class DeviceTime:
    """Of the events of one step.

    ``charged`` has the device time of each event: where several run at once, each is charged an
    equal part, so that all together are ``busy_us``. ``overlapped_us`` is the time with more than
    one.
    """

    charged: tuple[float, ...]
    busy_us: float
    overlapped_us: float
    gaps: tuple[Gap, ...]


def device_time(
    events: Sequence[TimelineEvent],
    since_us: float | None = None,
    before: TimelineEvent | None = None,
) -> DeviceTime:
    """The device time of events that ascend by start. ``since_us`` is when the step before ended,
    with the event ``before``: nothing counts before it, and a gap after it does."""
    charged = [0.0] * len(events)
    bounds = sorted(
        {
            max(bound, since_us) if since_us is not None else bound
            for event in events
            for bound in (event.start_us, event.end_us)
        }
    )
    busy = overlapped = 0.0
    gaps: list[Gap] = []
    active: list[int] = []
    at, last, last_end = 0, before, since_us
    for place, bound in enumerate(bounds):
        active = [index for index in active if events[index].end_us > bound]
        idle = not active and last_end is not None and bound > last_end
        while at < len(events) and events[at].start_us <= bound:
            if events[at].end_us > bound:
                active.append(at)
            if idle and last_end is not None:
                gaps.append(Gap(last_end, bound, last, events[at]))
                # One of no duration ends a gap, too; what comes behind it is another.
                last, last_end, idle = events[at], bound, False
            at += 1
        if active and place + 1 < len(bounds):
            span = bounds[place + 1] - bound
            busy += span
            overlapped += span if len(active) > 1 else 0.0
            for index in active:
                charged[index] += span / len(active)
            last = events[max(active, key=lambda index: events[index].end_us)]
            last_end = bounds[place + 1]
    return DeviceTime(tuple(charged), busy, overlapped, tuple(gaps))
