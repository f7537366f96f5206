"""Steps: which work is of which, which of them are compared, and what is said of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from glmc.errors import UsageError
from glmc.observe.timeline.table import WORK, Kind, Step, StepKind, Timeline, TimelineEvent

WHOLE = "whole file"
NO_STEPS = "no steps are named in the file: all of it is taken as one step"
WARM_UP = 2
"""Steps that are left out as warm-up, but never more than half of them."""


@dataclass(frozen=True)
class StepRange:
    """A range of a file that is a step; ``on_device`` where its times are the device's."""

    name: str
    kind: StepKind
    start_us: float
    end_us: float
    on_device: bool = False


@dataclass(frozen=True)
class Selection:
    """Steps of one kind that count, and how many before them are left out: as warm-up, or because
    only some were ``asked`` for."""

    kind: StepKind
    steps: tuple[Step, ...]
    left_out: int
    asked: bool = False

    @property
    def text(self) -> str:
        """``decode of 16 sequences: median step of 10, the first 2 left out as warm-up``."""
        count = len(self.steps)
        of = f"median step of {count}" if count > 1 else "one step"
        out = f", the first {self.left_out} left out as warm-up" if self.left_out else ""
        if self.asked:
            out = ", those that --steps names"
        return f"{self.kind}: {of}{out}"


def steps_of(ranges: Sequence[StepRange], work: Sequence[TimelineEvent]) -> tuple[Step, ...]:
    """Steps from their ranges: each reaches to the beginning of the next, since an engine samples
    after its range has ended. Without ranges the whole file is one."""
    ordered = sorted(ranges, key=lambda each: each.start_us)
    if not ordered:
        first = min((_asked(event) for event in work), default=0.0)
        last = max((event.end_us for event in work), default=0.0)
        return (Step(0, WHOLE, StepKind("", None, None), first, last),)
    last = max([ordered[-1].end_us, *(event.end_us for event in work)])
    ends = [each.start_us for each in ordered[1:]] + [last]
    return tuple(
        Step(number, each.name, each.kind, each.start_us, end, on_device=each.on_device)
        for number, (each, end) in enumerate(zip(ordered, ends, strict=True))
    )


def with_steps(timeline: Timeline) -> Timeline:
    """The timeline with the step of each event, by when the host asked for it, and with what is
    known of replays; what is before the first step is of none. Remarks say what was taken as one.
    """
    starts = [step.start_us for step in timeline.steps]
    on_device = any(step.on_device for step in timeline.steps)
    graphs = graph_launches(event for event in timeline.events if event.kind in WORK)
    events: list[TimelineEvent] = []
    replayed: set[int] = set()
    outside = 0
    for event in timeline.events:
        at = bisect_right(starts, event.start_us if on_device else _asked(event)) - 1
        outside += at < 0 and event.kind in WORK
        if event.correlation in graphs:
            replayed.add(at)
        events.append(replace(event, step=timeline.steps[at].number if at >= 0 else None))
    remarks = timeline.facts.remarks
    if any(step.name == WHOLE for step in timeline.steps):
        remarks = (*remarks, NO_STEPS)
    if outside:
        remarks = (*remarks, f"{outside} events of the device are before the first step")
    steps = tuple(replace(step, replayed=at in replayed) for at, step in enumerate(timeline.steps))
    facts = replace(timeline.facts, remarks=remarks)
    return replace(timeline, events=tuple(events), steps=steps, facts=facts)


def graph_launches(work: Iterable[TimelineEvent]) -> frozenset[str]:
    """The correlations that more than one event has: device graphs."""
    counts = Counter(event.correlation for event in work if event.correlation)
    return frozenset(correlation for correlation, count in counts.items() if count > 1)


def work_by_step(timeline: Timeline) -> Mapping[int, list[TimelineEvent]]:
    """What the busiest device does in each step, in the order of its start."""
    return device_work(timeline, main_device(timeline))


def device_work(timeline: Timeline, device: str) -> Mapping[int, list[TimelineEvent]]:
    """The same of a device."""
    found: dict[int, list[TimelineEvent]] = defaultdict(list)
    for event in timeline.events:
        if event.kind in WORK and event.step is not None and event.device == device:
            found[event.step].append(event)
    return found


def main_device(timeline: Timeline) -> str:
    """The device with the most work; totals say nothing of others."""
    return next(iter(devices(timeline)), "")


def devices(timeline: Timeline) -> list[str]:
    """The devices that have work, the busiest first: waiting for others in a collective is none."""
    times: dict[str, float] = defaultdict(float)
    for event in timeline.events:
        if event.kind in WORK:
            times[event.device] += event.duration_us * (event.kind is not Kind.COLLECTIVE)
    return sorted(times, key=lambda name: (-times[name], name))


def select(timeline: Timeline, phase: str | None, steps: slice | None) -> Selection:
    """The steps that are shown: of the kind that the file has most of, in this phase if one is
    asked for, without the first ones. Raises UsageError where there is none."""
    kinds = step_kinds(timeline)
    asked = [kind for kind in kinds if phase in (None, kind.phase)]
    if not asked:
        raise UsageError(
            f"{timeline.label} has no step of phase '{phase}'",
            expected=", ".join(sorted({kind.phase or "unknown" for kind in kinds})) or "a step",
            remedy="leave out --phase",
        )
    return selected(timeline, max(asked, key=lambda kind: kinds[kind]), steps)


def selected(timeline: Timeline, kind: StepKind, steps: slice | None) -> Selection:
    """The steps of one kind that count; one without work on the busiest device does not."""
    working = work_by_step(timeline)
    some = tuple(step for step in timeline.steps if step.kind == kind and step.number in working)
    cut = some[steps] if steps is not None else some[min(WARM_UP, len(some) // 2) :]
    if not cut:
        raise UsageError(
            f"--steps leaves none of the steps of {timeline.label}",
            found=f"{len(some)} steps of the kind '{kind}'",
            remedy="--steps 0:",
        )
    return Selection(kind, cut, some.index(cut[0]), asked=steps is not None)


def step_kinds(timeline: Timeline) -> Counter[StepKind]:
    """How many steps of each kind have work, in the order of the file."""
    working = work_by_step(timeline)
    return Counter(step.kind for step in timeline.steps if step.number in working)


def _asked(event: TimelineEvent) -> float:
    return event.start_us if event.launched_us is None else event.launched_us
