"""The page of a timeline or of two: one file, nothing fetched, little script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from glmc.observe.page.render import assembled, environment
from glmc.observe.timeline.diff import Aligned, DiffRow, Key, TimelineDiff, general
from glmc.observe.timeline.kernel_names import OP_CLASSES
from glmc.observe.timeline.picture import Picture, Side, median_time, picture
from glmc.observe.timeline.sections import Section, diff_sections, one_sections
from glmc.observe.timeline.table import Timeline, TimelineEvent
from glmc.observe.timeline.totals import Total, Totals, grouped, selected_times
from glmc.observe.timeline.words import diff_lines, one_lines, row_name, short, signed_us, us

_STYLES = "colours frame start timeline narrow print".split()
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


def one_page(timeline: Timeline, made: Totals) -> str:
    """The HTML of one timeline. The same arguments give the same bytes."""
    times = selected_times(timeline, made.selection)
    totals = grouped(times, lambda event: (_own_key(event),))
    ordered = sorted(totals, key=lambda key: (-totals[key].device_us, key[1]))
    numbers = {key: at for at, key in enumerate(ordered)}
    side = Side("", timeline, median_time(times), lambda event: numbers.get(_own_key(event)))
    rows = [_own_row(key, totals[key]) for key in ordered]
    columns = ("launches", "kernels, us", "device, us", "floor, us")
    return _page(
        f"Timeline of {PurePath(timeline.label).name}",
        one_lines(timeline, made),
        [side],
        one_sections(timeline, made),
        columns,
        rows,
    )


def diff_page(a: Timeline, b: Timeline, made: TimelineDiff) -> str:
    """The HTML of two timelines, one step of each over the other."""
    numbers = {(row.aligned, row.name): at for at, row in enumerate(made.rows)}

    def row_of(event: TimelineEvent) -> int | None:
        return numbers.get(made.alignment.key(event))

    sides = [
        Side(letter, side, median_time(selected_times(side, totals.selection)), row_of)
        for letter, side, totals in (("A", a, made.a), ("B", b, made.b))
    ]
    columns = ("A, us", "B, us", "A - B, us", "floor, us", "A, launches", "B, launches")
    return _page(
        "Two timelines",
        diff_lines(a, b, made),
        sides,
        diff_sections(a, b, made),
        columns,
        [_diff_row(row) for row in made.rows],
    )


def _page(
    title: str,
    lines: Sequence[str],
    sides: Sequence[Side],
    sections: Sequence[Section],
    columns: Sequence[str],
    rows: Sequence[Row],
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
            style=assembled(_STYLES, "css"),
            script=assembled(["timeline"], "js"),
        )
    )
    return html


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
