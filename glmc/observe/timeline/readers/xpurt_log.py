"""The log of Kunlun's runtime: ``XPUAPI_DEBUG=0x1 XPURT_DISPATCH_MODE=PROFILING``.

A line is ``[XPURT_PROF] NAME CYCLES NANOSECONDS ns``, or without the cycles; a line with
``gtest_NAME`` names the call of the vendor's library whose kernels follow. There are durations and
no times: kernels are laid end to end, and bubbles are not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from glmc.observe.timeline.op_class import kind_of
from glmc.observe.timeline.steps import steps_of, with_steps
from glmc.observe.timeline.table import (
    DEVICE_LANE,
    NOT_OURS,
    Facts,
    Timeline,
    TimelineEvent,
)

MARK = "XPURT_PROF"
_KERNEL = re.compile(rf"\[\s*{MARK}\s*\]\s+(.+?):?\s+(?:\d+\s+)?(\d{{1,18}})\s*ns\b")
_CALL = re.compile(r"^\s*gtest_(\w+)")


def read_xpurt_log(label: str, text: str) -> Timeline:
    """The log as a table; the file is one step."""
    lines = text.splitlines()
    events = tuple(_events(lines))
    lost = sum(MARK in line for line in lines) - len(events)
    remarks = ["the log has durations and no times: kernels are laid end to end"]
    remarks += [f"{lost} lines of kernels were not understood"] if lost else []
    facts = Facts(
        source="log of the Kunlun runtime",
        tried=False,
        timed=False,
        attribution=NOT_OURS,
        remarks=tuple(remarks),
    )
    return with_steps(Timeline(label, facts, steps_of((), events), events))


def _events(lines: list[str]) -> Iterator[TimelineEvent]:
    at, call = 0.0, ""
    for line in lines:
        if named := _CALL.match(line):
            call = named[1]
        elif found := _KERNEL.search(line):
            duration = int(found[2]) / 1000
            kind = kind_of(found[1])
            yield TimelineEvent(at, duration, f"{DEVICE_LANE} 0", kind, found[1], op=call)
            at += duration
