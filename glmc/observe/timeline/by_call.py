"""A timeline by call of the plan: the time of each, as the page of the compile shows it.

Only files of ours know calls. Times are device times, each instant counted once, of the step of a
phase whose time is the median, as in all tables: of the kind that is shown, else of the kind that
there is most of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmc.observe.timeline.bubbles import median_step
from glmc.observe.timeline.steps import Selection, select, work_by_step
from glmc.observe.timeline.table import Timeline, TimelineEvent
from glmc.observe.timeline.totals import grouped

BY_CALL = "by_call"
"""The key of a page's data that has :func:`side_to_json` of each side."""


@dataclass(frozen=True)
class CallTime:
    """``call`` is the place in the plan, ``node`` the whole id."""

    call: int
    node: str
    us: float


@dataclass(frozen=True)
class PhaseCalls:
    """``steps`` says in words of which step the times are; ``shown`` whether they are the
    steps that a page was asked for."""

    steps: str
    shown: bool
    calls: tuple[CallTime, ...]


@dataclass(frozen=True)
class SideCalls:
    """A side of a timeline: what it is of, and its calls by phase; none of a file of others.
    ``how`` is ``emulated``, ``interpreted`` or ''."""

    label: str
    model: str
    target: str
    how: str
    phases: dict[str, PhaseCalls]


def side_calls(timeline: Timeline, shown: Selection | None = None) -> SideCalls:
    """The calls of each phase; ``shown`` are the steps that a page shows."""
    facts = timeline.facts
    found = {}
    called = {
        number
        for number, events in work_by_step(timeline).items()
        if any(event.call is not None for event in events)
    }
    phases = (step.kind.phase for step in timeline.steps if step.number in called)
    for phase in dict.fromkeys(phases):
        is_shown = shown is not None and shown.kind.phase == phase
        chosen = shown if is_shown and shown is not None else select(timeline, phase, None)
        found[phase] = PhaseCalls(chosen.text, is_shown, _calls(timeline, chosen))
    how = "emulated" if facts.emulated else "interpreted" if facts.interpreted else ""
    return SideCalls(timeline.label, facts.model, facts.target, how, found)


def _calls(timeline: Timeline, chosen: Selection) -> tuple[CallTime, ...]:
    totals = grouped(median_step(timeline, chosen), _key)
    return tuple(
        CallTime(call, node, round(total.device_us, 3))
        for (call, node), total in sorted(totals.items())
    )


def _key(event: TimelineEvent) -> Sequence[tuple[int, str]]:
    return () if event.call is None else ((event.call, event.node),)


def side_to_json(side: SideCalls) -> dict[str, Any]:
    """Plain data; a call as a row of number, node and microseconds."""
    phases = {
        name: {
            "steps": phase.steps,
            "shown": phase.shown,
            "calls": [[each.call, each.node, each.us] for each in phase.calls],
        }
        for name, phase in side.phases.items()
    }
    return {**vars(side), "phases": phases}


def side_from_json(data: Any) -> SideCalls:
    """The other way round; raises what reading something else raises."""
    phases = {
        name: PhaseCalls(
            each["steps"], each["shown"], tuple(CallTime(*call) for call in each["calls"])
        )
        for name, each in data["phases"].items()
    }
    return SideCalls(**{**data, "phases": phases})
