"""One step of each side as lanes of bars, over each other on one axis of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from glmc.observe.timeline.bubbles import StepTime, causes_of
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import graph_launches
from glmc.observe.timeline.table import WORK, Timeline, TimelineEvent
from glmc.observe.timeline.words import said_emulated, us
from glmc_runtime.command.units import bytes_text

BAR, THIN, GAP = 20, 9, 4
_DEPTH = 4
_LONGEST_NAME = 200
_BUBBLE = "bubble"


@dataclass(frozen=True)
class Bar:
    """``left`` and ``width`` are percent of the axis, ``top`` and ``height`` pixels. ``row`` is the
    number of its row in the table, None without one; ``node`` the id of its node."""

    left: float
    width: float
    top: int
    height: int
    style: str
    title: str
    row: int | None = None
    node: str = ""


@dataclass(frozen=True)
class Lane:
    """``label`` stands beside its bars."""

    label: str
    top: int
    height: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Side:
    """One step: ``rows`` gives the row of an event."""

    letter: str
    timeline: Timeline
    time: StepTime
    rows: Callable[[TimelineEvent], int | None]

    @property
    def begin_us(self) -> float:
        """When the step begins: the end of the one before, or its first event."""
        return self.end_us - self.time.time_us

    @property
    def end_us(self) -> float:
        return max(event.end_us for event in self.time.events)


@dataclass(frozen=True)
class Tick:
    left: float
    label: str


@dataclass(frozen=True)
class Picture:
    """``height`` in pixels; the axis has ``span_us``."""

    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    height: int
    span_us: float


def picture(sides: Sequence[Side]) -> Picture:
    """The lanes of all sides, each step from the left edge on."""
    span = max((side.time.time_us for side in sides), default=0.0) or 1.0
    lanes: list[Lane] = []
    top = BAR
    for side in sides:
        for lane in _lanes(side, span, top):
            lanes.append(lane)
            top = lane.top + lane.height + GAP
        top += 2 * GAP
    return Picture(tuple(lanes), tuple(_ticks(span)), top, span)


def _lanes(side: Side, span: float, top: int) -> Iterator[Lane]:
    letter = f"{side.letter} " if side.letter else ""
    for label, depths in _host(side):
        height = THIN * len(depths)
        bars = tuple(
            _bar(side, event, span, (top + THIN * depth, THIN - 1), "host")
            for depth, events in enumerate(depths)
            for event in events
        )
        yield Lane(f"{letter}{label}", top, height, bars)
        top += height + GAP
    others = _others(side)
    for events in (side.time.events, others):
        for lane in _busiest_first(events):
            bars = tuple(
                _bar(side, event, span, (top, BAR), _style(op_class(event)))
                for event in events
                if event.lane == lane
            )
            yield Lane(f"{letter}{lane}", top, BAR, bars)
            top += BAR + GAP
    if side.timeline.facts.timed:
        of = f" of {side.time.events[0].device}" if others else ""
        label = f"{letter}bubbles{of}{said_emulated(side.timeline)}"
        yield Lane(label, top, THIN, tuple(_bubbles(side, span, top)))


def _others(side: Side) -> list[TimelineEvent]:
    """What devices beside that of the tables do meanwhile: other ranks, above all."""
    device = side.time.events[0].device
    return [
        event
        for event in side.timeline.events
        if event.kind in WORK and event.device != device and _is_seen(side, event)
    ]


def _is_seen(side: Side, event: TimelineEvent) -> bool:
    return event.end_us > side.begin_us and event.start_us < side.end_us


def _busiest_first(events: Iterable[TimelineEvent]) -> list[str]:
    times: dict[str, float] = {}
    for event in events:
        times[event.lane] = times.get(event.lane, 0.0) + event.duration_us
    return sorted(times, key=lambda lane: (-times[lane], lane))


def _host(side: Side) -> Iterator[tuple[str, list[list[TimelineEvent]]]]:
    """The events of each thread of the host that are seen in the step, by how deep they nest."""
    lanes: dict[str, list[TimelineEvent]] = {}
    for event in side.timeline.events:
        if event.kind not in WORK and _is_seen(side, event):
            lanes.setdefault(event.lane, []).append(event)
    for lane, events in lanes.items():
        depths: list[list[TimelineEvent]] = []
        open_: list[float] = []
        for event in sorted(events, key=lambda event: (event.start_us, -event.duration_us)):
            while open_ and open_[-1] <= event.start_us:
                open_.pop()
            if len(open_) < _DEPTH:
                if len(open_) == len(depths):
                    depths.append([])
                depths[len(open_)].append(event)
            open_.append(event.end_us)
        yield lane, depths


def _bar(side: Side, event: TimelineEvent, span: float, place: tuple[int, int], style: str) -> Bar:
    begin, end = max(event.start_us, side.begin_us), min(event.end_us, side.end_us)
    return Bar(
        _percent(begin - side.begin_us, span),
        _percent(end - begin, span),
        *place,
        style,
        _title(event),
        side.rows(event) if event.kind in WORK else None,
        event.node,
    )


def _bubbles(side: Side, span: float, top: int) -> Iterator[Bar]:
    graphs = graph_launches(side.time.events)
    for gap in side.time.device.gaps:
        causes = ", ".join(
            f"{cause} {us(part)} us" for cause, part in causes_of(gap, graphs).items()
        )
        title = f"bubble of {us(gap.duration_us)} us: {causes}\nbefore {gap.after.name}"
        left = _percent(gap.start_us - side.begin_us, span)
        width = _percent(gap.duration_us, span)
        yield Bar(left, width, top, THIN, _BUBBLE, title[:_LONGEST_NAME])


def _title(event: TimelineEvent) -> str:
    """What is shown over a bar: name, node, times, floor."""
    floor = "" if event.floor_us is None else f", floor {us(event.floor_us)} us"
    parts = (
        event.name[:_LONGEST_NAME],
        event.node,
        f"{us(event.duration_us)} us{floor}",
        op_class(event) if event.kind in WORK else "",
        "" if event.bytes is None else bytes_text(event.bytes),
        "" if event.layer is None else f"layer {event.layer}",
        event.module if not event.node else "",
        f"launched by {event.op}" if event.op and not event.node else "",
        f"passes: {', '.join(event.passes)}" if event.passes else "",
    )
    return "\n".join(filter(None, parts))


def _style(kind: str) -> str:
    """The class of a kind of op in the style sheet."""
    return kind.replace(" ", "-")


def _percent(value: float, span: float) -> float:
    return round(100 * value / span, 4)


def _ticks(span: float) -> Iterator[Tick]:
    """Five to ten marks at round times."""
    step = 1.0
    while span / step > 10:
        for factor in (2.0, 2.5, 2.0):
            if span / step > 10:
                step *= factor
    at = 0.0
    while at < span:
        yield Tick(_percent(at, span), f"{at:,.0f} us")
        at += step
