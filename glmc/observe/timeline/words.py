"""Timelines in words: sections of lines and tables, which a terminal, Markdown and a page show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from glmc.observe.timeline.diff import Aligned, DiffRow, TimelineDiff
from glmc.observe.timeline.steps import step_kinds
from glmc.observe.timeline.table import Facts, Timeline
from glmc.observe.timeline.totals import Total, Totals
from glmc_runtime.command.units import share_text

NAME_WIDTH = 72
EMULATED = "emulated: times are those of a host, not of the device that the plan is for"
UNTRIED = "this reader has not been tried on real files of its kind"


@dataclass(frozen=True)
class Section:
    """A table; the first ``names`` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def us(value: float | None) -> str:
    """Microseconds with one digit after the point: ``2,486.7``."""
    return "-" if value is None else f"{value:,.1f}"


def signed_us(value: float) -> str:
    return f"{value:+,.1f}"


def short(name: str) -> str:
    """A kernel's name in a table's cell: its beginning, without its return type."""
    name = name.removeprefix("void ")
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..."


def head_lines(timeline: Timeline, letter: str = "") -> Iterator[str]:
    """What a file is, and what is to be known before its numbers are read."""
    facts = timeline.facts
    side = f"{letter}  " if letter else ""
    parts = [facts.source, facts.model, f"for {facts.target}" if facts.target else "", facts.dtype]
    yield f"{side}{timeline.label}: {', '.join(filter(None, (*parts, facts.device)))}"
    for name, text in _notes(facts):
        yield f"{side}{name}: {text}"


def one_lines(timeline: Timeline, made: Totals) -> list[str]:
    """What is to be read before the tables of one timeline."""
    return [*head_lines(timeline), f"steps: {made.selection.text}", _device_line(timeline, made)]


def diff_lines(a: Timeline, b: Timeline, made: TimelineDiff) -> list[str]:
    """What is to be read before the tables of a comparison."""
    return [
        *head_lines(a, "A"),
        *head_lines(b, "B"),
        *(f"note: {remark}" for remark in made.remarks),
        f"steps of A: {made.a.selection.text}",
        f"steps of B: {made.b.selection.text}",
    ]


def _device_line(timeline: Timeline, made: Totals) -> str:
    how = "replays of device graphs" if made.replayed else "launched call by call"
    return f"{made.device}: {made.launches:g} events a step, {how}"


def _notes(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.emulated:
        yield "note", EMULATED
    if facts.interpreted:
        yield "note", "interpreted: kernels were run by an interpreter, and their times say nothing"
    if not facts.tried:
        yield "note", f"{UNTRIED} ({facts.source})"
    for remark in facts.remarks:
        yield "note", remark
    if facts.attribution:
        yield "nodes", facts.attribution
    if facts.layers:
        yield "layers", facts.layers


def one_sections(timeline: Timeline, made: Totals) -> list[Section]:
    """The tables of one timeline; those without rows are left out."""
    sections = [
        _steps((("", timeline),)),
        Section(
            "Where the time of a step goes",
            ("part", "us", "share", "floor, us"),
            tuple(_parts(made)),
        ),
        Section(
            "Bubbles",
            ("while", "us", "share"),
            tuple(
                (name, us(value), _share(value, made.time_us))
                for name, value in made.bubbles.items()
                if value
            ),
        ),
        _totals("By kind of op", made.by_class, made),
        _totals("By kind of layer", made.by_layer, made),
        _totals("By pass (an event counts for each of its passes)", made.by_pass, made),
        Section(
            "Launches of a layer",
            ("layers", "launches of one"),
            tuple((kind.name, f"{kind.launches:g}") for kind in made.layer_kinds),
        ),
    ]
    return [section for section in sections if section.rows]


def diff_sections(a: Timeline, b: Timeline, made: TimelineDiff) -> list[Section]:
    """The tables of a comparison."""
    step = (
        "step",
        us(made.a.time_us),
        us(made.b.time_us),
        signed_us(made.a.time_us - made.b.time_us),
        us(made.a.floor_us if made.a.floor_us is not None else made.b.floor_us),
    )
    levers = [
        (
            lever.name,
            us(lever.a),
            us(lever.b),
            signed_us(lever.difference_us),
            us(lever.floor_us),
        )
        for lever in made.levers
    ]
    alone = made.of_a_alone
    return [
        _steps((("A", a), ("B", b))),
        Section("Three levers", ("lever", "A, us", "B, us", "A - B", "floor, us"), (*levers, step)),
        Section("Bubbles", ("while", "A, us", "B, us", "A - B"), tuple(_bubbles(made))),
        Section("Launches", ("", "A", "B"), tuple(_launches(made))),
        Section("Largest differences", _DIFF_COLUMNS, tuple(map(_diff_row, made.largest)), names=2),
        *(
            [
                Section(
                    "What A pays that B does not",
                    _DIFF_COLUMNS,
                    tuple(map(_diff_row, alone)),
                    names=2,
                )
            ]
            if alone
            else []
        ),
    ]


_DIFF_COLUMNS = (
    "aligned by",
    "name",
    "A, us",
    "B, us",
    "A - B",
    "floor, us",
    "A, launches",
    "B, launches",
)


def row_name(row: DiffRow) -> str:
    return short(row.name) if row.aligned is Aligned.NAME else row.name


def _diff_row(row: DiffRow) -> tuple[str, ...]:
    return (
        row.aligned.value,
        row_name(row),
        us(row.a.device_us if row.a else None),
        us(row.b.device_us if row.b else None),
        signed_us(row.difference_us),
        us(row.floor_us),
        f"{row.a.launches:g}" if row.a else "-",
        f"{row.b.launches:g}" if row.b else "-",
    )


def _steps(sides: Sequence[tuple[str, Timeline]]) -> Section:
    rows = [
        (f"{letter}  {kind}".strip(), f"{count}")
        for letter, timeline in sides
        for kind, count in step_kinds(timeline).items()
    ]
    return Section("Steps", ("kind", "steps"), tuple(rows))


def _parts(made: Totals) -> Iterator[tuple[str, ...]]:
    parts = (
        ("operators", made.operators_us, None),
        ("communication alone", made.communication_us, None),
        ("bubbles", made.bubbles_us, None),
        ("step", made.time_us, made.floor_us),
    )
    for name, value, floor in parts:
        yield name, us(value), _share(value, made.time_us), us(floor)
    yield "device busy", us(made.busy_us), _share(made.busy_us, made.time_us), us(made.floor_us)
    if made.overlapped_us:
        overlap = made.overlapped_us
        yield "several streams at once", us(overlap), _share(overlap, made.time_us), "-"


def _totals(title: str, rows: Iterable[Total], made: Totals) -> Section:
    columns = ("", "launches", "kernels, us", "device, us", "share of step", "floor, us")
    return Section(
        title,
        columns,
        tuple(
            (
                total.name,
                f"{total.launches:g}",
                us(total.kernel_us),
                us(total.device_us),
                _share(total.device_us, made.time_us),
                us(total.floor_us),
            )
            for total in rows
        ),
    )


def _bubbles(made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    for name, value in made.a.bubbles.items():
        other = made.b.bubbles[name]
        if value or other:
            yield name, us(value), us(other), signed_us(value - other)


def _launches(made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    yield "of a step", f"{made.a.launches:g}", f"{made.b.launches:g}"
    yield "gaps of a step", f"{made.a.gaps:g}", f"{made.b.gaps:g}"
    kinds = [kind for side in (made.a, made.b) for kind in side.layer_kinds]
    for word in dict.fromkeys(kind.name.split(" ")[0] for kind in kinds):
        cells = []
        for side in (made.a, made.b):
            some = [kind for kind in side.layer_kinds if kind.name.startswith(word)]
            cells.append(f"{some[0].launches:g}" if some else "-")
        yield f"of one {word} layer", *cells


def _share(value: float, whole: float) -> str:
    return share_text(value / whole) if whole else "-"
