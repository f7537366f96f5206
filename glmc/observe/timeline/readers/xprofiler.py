"""XProfiler's ``xprofiler.trace.json``, and any other Chrome trace whose writer is not known.

The vendor says that it is a Chrome trace, and not how its events and lanes are called. So a lane
is the device's by words in its name, or, where no lane says what it is, by kernels in it that
kernel_names.py knows; what was chosen is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from glmc.observe.timeline.kernel_names import OTHER
from glmc.observe.timeline.op_class import class_of, kind_of
from glmc.observe.timeline.readers.chrome import ChromeEvent, ChromeTrace, Lane
from glmc.observe.timeline.steps import steps_of, with_steps
from glmc.observe.timeline.table import (
    DEVICE_LANE,
    HOST_LANE,
    NOT_OURS,
    Facts,
    Kind,
    Timeline,
    TimelineEvent,
)

_HOST = re.compile(r"host|driver|runtime|\bapi\b|\bcpu\b|python|process", re.IGNORECASE)
_DEVICE = re.compile(r"xpu|device|\bsse\b|cluster|sdnn|stream|kernel|\bdma\b|gpu", re.IGNORECASE)
_NUMBER = re.compile(r"(?:xpu|device|card|gpu)\D{0,3}(\d+)", re.IGNORECASE)


def read_xprofiler(label: str, trace: ChromeTrace) -> Timeline:
    """The trace as a table; it has no steps that are known, so the file is one."""
    lanes, how = _device_lanes(trace)
    events = tuple(_event(event, trace, lanes) for event in trace.events)
    work = [event for event in events if event.kind is not Kind.HOST]
    remarks = [f"{trace.left_out} events without a time left out"] if trace.left_out else []
    facts = Facts(
        source="XProfiler, or another Chrome trace",
        tried=False,
        attribution=NOT_OURS,
        remarks=(how, *remarks),
    )
    return with_steps(Timeline(label, facts, steps_of((), work), events))


def _device_lanes(trace: ChromeTrace) -> tuple[frozenset[Lane], str]:
    """The lanes of devices, and how they were found."""
    names: dict[Lane, set[str]] = defaultdict(set)
    for event in trace.events:
        names[event.lane].add(event.name)
    said = {lane: trace.lane_name(lane) for lane in names}
    named = [lane for lane, name in said.items() if _DEVICE.search(name) and not _HOST.search(name)]
    if named:
        return frozenset(named), f"lanes of devices by their names: {_listed(said, named)}"
    known = [lane for lane, some in names.items() if any(class_of(name) != OTHER for name in some)]
    if known:
        return frozenset(known), f"lanes of devices by their kernels: {_listed(said, known)}"
    return frozenset(names), "no lane says that it is a device's: all of them count as work"


def _listed(said: dict[Lane, str], lanes: Iterable[Lane]) -> str:
    return ", ".join(sorted(said[lane] or "/".join(lane) for lane in lanes))


def _event(event: ChromeEvent, trace: ChromeTrace, lanes: frozenset[Lane]) -> TimelineEvent:
    name = trace.lane_name(event.lane)
    if event.lane not in lanes:
        lane, kind = f"{HOST_LANE} {name}".strip(), Kind.HOST
    else:
        numbered = _NUMBER.search(name)
        lane = f"{DEVICE_LANE} {numbered[1] if numbered else 0} {name or '/'.join(event.lane)}"
        kind = kind_of(event.name)
    return TimelineEvent(event.start_us, event.duration_us, lane, kind, event.name)
