"""Timelines in words: numbers as text, and what is to be read before any table."""

from __future__ import annotations

from collections.abc import Iterator

from glmc.observe.timeline.diff import Aligned, DiffRow, TimelineDiff
from glmc.observe.timeline.steps import devices
from glmc.observe.timeline.table import Facts, Timeline
from glmc.observe.timeline.totals import Totals
from glmc_runtime.command.units import share_text

NAME_WIDTH = 72
_NAMED = 4
EMULATED = "emulated: times are those of a host, not of the device that the plan is for"
INTERPRETED = "interpreted: an interpreter ran the kernels, and their times say nothing of a device"
UNTRIED = "not tried on real files"


def us(value: float | None) -> str:
    """Microseconds with one digit after the point: ``2,486.7``."""
    return "-" if value is None else f"{value:,.1f}"


def signed_us(value: float | None) -> str:
    return "-" if value is None else f"{value:+,.1f}"


def share(value: float | None, whole: float) -> str:
    return share_text(value / whole) if whole and value is not None else "-"


def short(name: str) -> str:
    """A kernel's name in a table's cell: its beginning, without its return type."""
    name = name.removeprefix("void ")
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..."


def row_name(row: DiffRow) -> str:
    return short(row.name) if row.aligned is Aligned.NAME else row.name


def said_emulated(timeline: Timeline) -> str:
    """What a heading says of emulated numbers."""
    return " (emulated)" if timeline.facts.emulated else ""


def head_lines(timeline: Timeline, letter: str = "") -> Iterator[str]:
    """What a file is, and what is to be known before its numbers are read."""
    facts = timeline.facts
    side = f"{letter}  " if letter else ""
    model = f"model {facts.model}" if facts.model else ""
    plan = " ".join(filter(None, (model, f"for {facts.target}" if facts.target else "")))
    parts = (facts.source, plan, facts.dtype, f"on {facts.device}" if facts.device else "")
    yield f"{side}{timeline.label}: {', '.join(filter(None, parts))}"
    for name, text in _notes(facts):
        yield f"{side}{name}: {text}"
    busiest, *others = devices(timeline) or [""]
    if others:
        left = ", ".join(sorted(others)) if len(others) < _NAMED else f"{len(others)} others"
        yield f"{side}note: totals are of {busiest} alone, not of {left}"


def one_lines(timeline: Timeline, made: Totals) -> list[str]:
    """What is to be read before the tables of one timeline."""
    how = "replays of device graphs" if made.replayed else "launched call by call"
    device = f"{made.device}{said_emulated(timeline)}"
    return [
        *head_lines(timeline),
        f"steps: {made.selection.text}{_step(made)}",
        f"{device}: {made.launches:g} events a step, {how}",
    ]


def diff_lines(a: Timeline, b: Timeline, made: TimelineDiff) -> list[str]:
    """What is to be read before the tables of a comparison."""
    return [
        *head_lines(a, "A"),
        *head_lines(b, "B"),
        *(f"note: {remark}" for remark in made.remarks),
        f"steps of A: {made.a.selection.text}{_step(made.a)}",
        f"steps of B: {made.b.selection.text}{_step(made.b)}",
    ]


def _step(made: Totals) -> str:
    """How far the steps differ, and which of them the tables are of."""
    if len(made.selection.steps) < 2:
        return ""
    least, most = made.range_us
    at = made.selection.left_out + made.selection.steps.index(made.step)
    return f"; they took {us(least)} to {us(most)} us, tables are of --steps {at}:{at + 1}"


def _notes(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.emulated:
        yield "note", EMULATED
    if facts.interpreted:
        yield "note", INTERPRETED
    if not facts.tried:
        yield "note", f"the reader of this kind of file ({facts.source}) is {UNTRIED}"
    for remark in facts.remarks:
        yield "note", remark
    if facts.attribution:
        yield "nodes", facts.attribution
    if facts.layers:
        yield "layers", facts.layers
