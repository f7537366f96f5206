"""Timelines of ``glmc run --timeline``: each call of a plan with its node, op, layer and passes.

Steps are on the lane of the host, calls on one for each stream of a device, on CUDA with the
correlation of their launch and when it had returned. Where the host timed the calls itself, as on a
CPU and on the emulator, nothing is queued: every bubble is the host's. Ranks take the same steps,
each on lanes of its own; the times of a step are those of the first rank in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from glmc.errors import UsageError
from glmc.observe.spans import spans
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import class_of
from glmc.observe.timeline.readers.chrome import ChromeEvent, ChromeTrace, number
from glmc.observe.timeline.table import (
    DEVICE_LANE,
    HOST_LANE,
    Facts,
    Kind,
    Step,
    StepKind,
    Timeline,
    TimelineEvent,
)

KEY, FORMAT = "glmc", 1
_STEP, _CALL = "step", "call"
_DEVICE, _STREAM = re.compile(r"device (\d+)"), re.compile(r"stream (\d+)")
_RANK = re.compile(r"rank \d+ ")
_HOST_TIMED = "cpu"


def is_ours(trace: ChromeTrace) -> bool:
    """Whether glmc wrote a trace."""
    return isinstance(trace.head.get(KEY), dict)


def read_ours(label: str, trace: ChromeTrace) -> Timeline:
    """The trace as a table. Raises UsageError for a format of a later release."""
    about: Mapping[str, Any] = trace.head[KEY]
    if about.get("format") != FORMAT:
        raise UsageError(
            "the timeline was written by another release of glmc",
            place=label,
            expected=f"format {FORMAT}",
            found=f"format {about.get('format')!r}",
            remedy="read it with the release that wrote it",
        )
    facts = _facts(about, trace)
    steps: dict[int, Step] = {}
    for event in sorted(trace.events, key=lambda event: _whole(event.args.get("rank")) or 0):
        if event.category == _STEP and (step := _step(event)) is not None:
            steps.setdefault(step.number, step)
    host_timed = facts.emulated or facts.device == _HOST_TIMED
    suffix = " (emulated)" if facts.emulated else ""
    events = tuple(
        _host(event, trace.lane_name(event.lane), suffix)
        if _DEVICE.search(trace.lane_name(event.lane)) is None
        else _work(event, trace.lane_name(event.lane), steps, suffix, host_timed)
        for event in trace.events
    )
    return Timeline(label, facts, tuple(steps[at] for at in sorted(steps)), events)


def _facts(about: Mapping[str, Any], trace: ChromeTrace) -> Facts:
    versions = about.get("versions")
    remarks = [f"{trace.left_out} events without a time left out"] if trace.left_out else []
    if costs := _text(about.get("costs")):
        remarks.append(f"costs: {costs}")
    if clock := _text(about.get("clock")):
        remarks.append(f"times of all ranks are by one clock: {clock}")
    ranks = {each for event in trace.events if (each := _whole(event.args.get("rank"))) is not None}
    if len(ranks) < (count := _whole(about.get("ranks")) or 0) and ranks:
        remarks.append(f"only rank {spans(sorted(ranks))} of {count} ranks is in the file")
    return Facts(
        source="glmc",
        model=_text(about.get("model")),
        target=_text(about.get("target")),
        dtype=_text(about.get("dtype")),
        device=_text(about.get("device")),
        emulated=about.get("emulated") is True,
        interpreted=about.get("interpreted") is True,
        versions={str(name): _text(each) for name, each in versions.items()}
        if isinstance(versions, dict)
        else {},
        attribution=_text(about.get("attribution")),
        layers="by node",
        remarks=tuple(remarks),
    )


def _step(event: ChromeEvent) -> Step | None:
    args = event.args
    at = _whole(args.get("step"))
    if at is None:
        return None
    kind = StepKind(
        _text(args.get("phase")), _whole(args.get("sequences")), _whole(args.get("tokens"))
    )
    replayed = args.get("replayed") is True
    return Step(at, event.name, kind, event.start_us, event.end_us, replayed)


def _rank(lane: str) -> str:
    """``rank 1 ``, with which the lanes of a rank begin; of one rank nothing."""
    found = _RANK.match(lane)
    return found[0] if found else ""


def _host(event: ChromeEvent, lane: str, suffix: str) -> TimelineEvent:
    return TimelineEvent(
        event.start_us,
        event.duration_us,
        f"{_rank(lane)}{HOST_LANE}{suffix}",
        Kind.STEP if event.category == _STEP else Kind.HOST,
        event.name,
        step=_whole(event.args.get("step")),
    )


def _work(
    event: ChromeEvent, lane: str, steps: Mapping[int, Step], suffix: str, host_timed: bool
) -> TimelineEvent:
    args = event.args
    device, stream = _DEVICE.search(lane), _STREAM.search(lane)
    at = _whole(args.get("step"))
    step = None if at is None else steps.get(at)
    correlation = _whole(args.get("correlation"))
    name, op = _text(args.get("function")) or event.name, _text(args.get("op"))
    kind = Kind.CALL if event.category == _CALL else Kind.KERNEL
    if class_of(name, op, planned=True) == COLLECTIVE:
        kind = Kind.COLLECTIVE
    on = f"{DEVICE_LANE} {device[1] if device else 0} stream {stream[1] if stream else 0}"
    return TimelineEvent(
        event.start_us,
        event.duration_us,
        f"{_rank(lane)}{on}{suffix}",
        kind,
        name,
        node=_text(args.get("node")),
        module=_text(args.get("module")),
        layer=_whole(args.get("layer")),
        op=op,
        passes=_texts(args.get("passes")),
        step=None if step is None else step.number,
        bytes=_whole(args.get("bytes")),
        operations=_whole(args.get("operations")),
        floor_us=number(args.get("floor_us")),
        correlation="" if correlation is None else str(correlation),
        launched_us=number(args.get("launched_us")),
        queued_us=event.start_us if host_timed else number(args.get("queued_us")),
        call=_whole(args.get("call")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    """Passes are a list; one alone may be a text."""
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
