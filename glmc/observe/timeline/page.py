"""The page of a timeline or of two: one file, nothing fetched, little script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from glmc.observe.page.embedded import TIMELINE
from glmc.observe.page.render import assembled, environment, script_json
from glmc.observe.timeline.bubbles import median_step
from glmc.observe.timeline.by_call import BY_CALL, side_calls, side_to_json
from glmc.observe.timeline.diff import Aligned, DiffRow, Key, TimelineDiff, general
from glmc.observe.timeline.kernel_names import OP_CLASSES
from glmc.observe.timeline.picture import Picture, Side, picture
from glmc.observe.timeline.sections import Section, diff_sections, one_sections
from glmc.observe.timeline.steps import Selection
from glmc.observe.timeline.table import Timeline, TimelineEvent
from glmc.observe.timeline.totals import Total, Totals, grouped
from glmc.observe.timeline.words import (
    diff_lines,
    one_lines,
    row_name,
    said_emulated,
    short,
    signed_us,
    us,
)

_STYLES = "colours frame start timeline narrow print".split()
_SCRIPTS = "dom timeline".split()
_REPEATED = ("Largest",)
"""Sections that the table of all rows has too begin so."""


@dataclass(frozen=True)
class Row:
    """A row of the table that bars lead to; ``cells`` after its name are numbers."""

    aligned: str
    name: str
    whole: str
    cells: tuple[str, ...]
    alone: str = ""


def one_page(timeline: Timeline, made: Totals, compile_page: str | None = None) -> str:
    """The HTML of one timeline. ``compile_page`` is the address of the page of its compile, to
    which nodes lead. The same arguments give the same bytes."""
    time = median_step(timeline, made.selection)
    totals = grouped(time, lambda event: (_own_key(event),))
    ordered = sorted(totals, key=lambda key: (-totals[key].device_us, key[1]))
    numbers = {key: at for at, key in enumerate(ordered)}
    side = Side("", timeline, time, lambda event: numbers.get(_own_key(event)))
    rows = [_own_row(key, totals[key]) for key in ordered]
    said = said_emulated(timeline)
    columns = ("launches", f"kernels, us{said}", f"device, us{said}", "floor, us")
    return _page(
        f"Timeline of {PurePath(timeline.label).name}",
        one_lines(timeline, made),
        [side],
        one_sections(timeline, made),
        columns,
        rows,
        _data([side], [made.selection], compile_page),
    )


def diff_page(a: Timeline, b: Timeline, made: TimelineDiff, compile_page: str | None = None) -> str:
    """The HTML of two timelines, one step of each over the other."""
    numbers = {(row.aligned, row.name): at for at, row in enumerate(made.rows)}

    def row_of(event: TimelineEvent) -> int | None:
        return numbers.get(made.alignment.key(event))

    sides = [
        Side(letter, side, median_step(side, totals.selection), row_of)
        for letter, side, totals in (("A", a, made.a), ("B", b, made.b))
    ]
    heads = (f"{side.letter}, us{said_emulated(side.timeline)}" for side in sides)
    columns = (*heads, "A - B, us", "floor, us", "A, launches", "B, launches")
    return _page(
        "Two timelines",
        diff_lines(a, b, made),
        sides,
        diff_sections(a, b, made),
        columns,
        [_diff_row(row) for row in made.rows],
        _data(sides, [made.a.selection, made.b.selection], compile_page),
    )


def _page(
    title: str,
    lines: Sequence[str],
    sides: Sequence[Side],
    sections: Sequence[Section],
    columns: Sequence[str],
    rows: Sequence[Row],
    data: dict[str, Any],
) -> str:
    drawn = picture(sides)
    html: str = (
        environment()
        .get_template("timeline.html")
        .render(
            title=title,
            lines=lines,
            picture=drawn,
            described=_described(sides, drawn),
            emulated=any(side.timeline.facts.emulated for side in sides),
            classes=[(kind, kind.replace(" ", "-")) for kind in OP_CLASSES],
            sections=[each for each in sections if not each.title.startswith(_REPEATED)],
            columns=columns,
            rows=rows,
            nodes={id: number for number, (id, *_) in enumerate(data["nodes"])},
            style=assembled(_STYLES, "css"),
            script=assembled(_SCRIPTS, "js"),
            data=script_json(data),
        )
    )
    return html


def _data(
    sides: Sequence[Side], selections: Sequence[Selection], compile_page: str | None
) -> dict[str, Any]:
    """Data of the script. ``nodes`` are those of the steps that are drawn, each with its row and,
    for each side, its microseconds there."""
    nodes: dict[str, list[Any]] = {}
    for at, side in enumerate(sides):
        for event in side.time.events:
            if event.node:
                row = nodes.setdefault(event.node, [event.node, side.rows(event), [0.0, 0.0]])
                row[2][at] = round(row[2][at] + event.duration_us, 3)
    chosen = zip(sides, selections, strict=True)
    calls = [side_calls(side.timeline, selection) for side, selection in chosen]
    return {
        "page": TIMELINE,
        "compile": compile_page,
        "sides": [[side.letter, one.how] for side, one in zip(sides, calls, strict=True)],
        "nodes": list(nodes.values()),
        BY_CALL: [side_to_json(one) for one in calls],
    }


def _described(sides: Sequence[Side], drawn: Picture) -> str:
    """The picture in a sentence, for those who don't see it."""
    steps = (
        f"{side.letter} {side.time.step.name}, {us(side.time.time_us)} us, "
        f"{len(side.time.events)} events".strip()
        for side in sides
    )
    return f"One step on {len(drawn.lanes)} lanes: {'; '.join(steps)}"


def _own_key(event: TimelineEvent) -> Key:
    return (Aligned.NODE, general(event.node)) if event.node else (Aligned.NAME, event.name)


def _own_row(key: Key, total: Total) -> Row:
    aligned, name = key
    cells = f"{total.launches:g}", us(total.kernel_us), us(total.device_us), us(total.floor_us)
    shown = short(name) if aligned is Aligned.NAME else name
    return Row(aligned.value, shown, name, cells)


def _diff_row(row: DiffRow) -> Row:
    a, b = row.a, row.b
    return Row(
        row.aligned.value,
        row_name(row),
        row.name,
        (
            us(a.device_us if a else None),
            us(b.device_us if b else None),
            signed_us(row.difference_us),
            us(row.floor_us),
            f"{a.launches:g}" if a else "-",
            f"{b.launches:g}" if b else "-",
        ),
        "A alone" if b is None else "B alone" if a is None else "",
    )
