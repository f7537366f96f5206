"""The tables of a timeline and of two, which a terminal, Markdown and a page show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from glmc.observe.timeline.bubbles import median_step
from glmc.observe.timeline.diff import LARGEST, DiffRow, TimelineDiff, general
from glmc.observe.timeline.steps import step_kinds
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import Total, Totals, grouped
from glmc.observe.timeline.words import row_name, said_emulated, share, short, signed_us, us

TOTALS = ("launches", "kernels, us", "device, us", "share of step", "floor, us")


@dataclass(frozen=True)
class Section:
    """A table; the first ``names`` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def one_sections(timeline: Timeline, made: Totals) -> list[Section]:
    """The tables of one timeline; those without rows are left out."""
    emulated = said_emulated(timeline)
    bubbles = tuple(
        (name, us(value), share(value, made.time_us))
        for name, value in made.bubbles.items()
        if value
    )
    launches = tuple((kind.name, f"{kind.launches:g}") for kind in made.layer_kinds)
    sections = [
        Section("Steps", ("kind", "steps"), tuple(_steps((("", timeline),)))),
        Section(
            f"Where the time of a step goes{emulated}",
            ("part", "us", "share", "floor, us"),
            tuple(_parts(made)),
        ),
        _by_device(f"By device{emulated}", (("", made),)),
        Section(f"Bubbles{emulated}", ("while", "us", "share"), bubbles),
        _totals(f"By kind of op{emulated}", made.by_class, made),
        _totals(f"By kind of layer{emulated}", made.by_layer, made),
        _totals(f"By pass, each event for all of its passes{emulated}", made.by_pass, made),
        Section("Launches of a layer", ("layers", "launches of one"), launches),
        _totals(f"Largest nodes and kernels{emulated}", _largest(timeline, made), made),
    ]
    return [section for section in sections if section.rows]


def diff_sections(a: Timeline, b: Timeline, made: TimelineDiff) -> list[Section]:
    """The tables of a comparison; those without rows are left out."""
    heads = tuple(f"{letter}, us{said_emulated(side)}" for letter, side in (("A", a), ("B", b)))
    columns = ("aligned by", "name", *heads, "A - B", "floor, us", "A, launches", "B, launches")
    sections = [
        Section("Steps", ("kind", "steps"), tuple(_steps((("A", a), ("B", b))))),
        Section("Three levers", ("lever", *heads, "A - B", "floor, us"), tuple(_levers(made))),
        _by_device("By device", (("A", made.a), ("B", made.b))),
        Section("Bubbles", ("while", *heads, "A - B"), tuple(_bubbles(made))),
        Section("Launches", ("", "A", "B"), tuple(_launches(made))),
        Section("Largest differences", columns, tuple(map(_diff_row, made.largest)), names=2),
        Section(
            "What A pays that B does not", columns, tuple(map(_diff_row, made.of_a_alone)), names=2
        ),
    ]
    return [section for section in sections if section.rows]


def _steps(sides: Sequence[tuple[str, Timeline]]) -> Iterator[tuple[str, ...]]:
    for letter, timeline in sides:
        for kind, count in step_kinds(timeline).items():
            yield f"{letter}  {kind}".strip(), f"{count}"


def _parts(made: Totals) -> Iterator[tuple[str, ...]]:
    for name, value, floor in (
        ("operators", made.operators_us, None),
        ("communication alone", made.communication_us, None),
        ("bubbles", made.bubbles_us, None),
        ("step", made.time_us, made.floor_us),
        ("device busy", made.busy_us, made.floor_us),
        ("several streams at once", made.overlapped_us or None, None),
    ):
        if value is not None or name == "bubbles":
            yield name, us(value), share(value, made.time_us), us(floor)


def _by_device(title: str, sides: Sequence[tuple[str, Totals]]) -> Section:
    rows = tuple(
        (
            f"{letter}  {each.device}".strip(),
            us(each.time_us),
            us(each.operators_us),
            us(each.communication_us),
            us(each.waiting_us),
            us(each.bubbles_us),
        )
        for letter, made in sides
        for each in made.by_device
    )
    communication = "communication alone, us", "of it waiting, us"
    parts = ("step, us", "operators, us", *communication, "bubbles, us")
    return Section(title, ("", *parts), rows)


def _totals(title: str, rows: Iterable[Total], made: Totals) -> Section:
    return Section(
        title,
        ("", *TOTALS),
        tuple(
            (
                short(total.name),
                f"{total.launches:g}",
                us(total.kernel_us),
                us(total.device_us),
                share(total.device_us, made.time_us),
                us(total.floor_us),
            )
            for total in rows
        ),
    )


def _largest(timeline: Timeline, made: Totals) -> Sequence[Total]:
    """By node without the number of its layer, or by name."""
    time = median_step(timeline, made.selection)
    rows = grouped(time, lambda event: (general(event.node) or event.name,))
    return sorted(rows.values(), key=lambda total: -total.device_us)[:LARGEST]


def _levers(made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    for lever in made.levers:
        sides = us(lever.a), us(lever.b)
        yield lever.name, *sides, signed_us(lever.difference_us), us(lever.floor_us)
    a, b = made.a, made.b
    floor = a.floor_us if a.floor_us is not None else b.floor_us
    yield "step", us(a.time_us), us(b.time_us), signed_us(a.time_us - b.time_us), us(floor)


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


def _bubbles(made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys((*made.a.bubbles, *made.b.bubbles)):
        of_a, of_b = made.a.bubbles.get(name), made.b.bubbles.get(name)
        if of_a or of_b:
            unknown = of_a is None or of_b is None
            difference = None if unknown else (of_a or 0.0) - (of_b or 0.0)
            yield name, us(of_a), us(of_b), signed_us(difference)


def _launches(made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    yield "of a step", f"{made.a.launches:g}", f"{made.b.launches:g}"
    yield "gaps of a step", f"{made.a.gaps:g}", f"{made.b.gaps:g}"
    kinds = [kind for side in (made.a, made.b) for kind in side.layer_kinds]
    for word in dict.fromkeys(kind.name.partition(" ")[0] for kind in kinds):
        cells = []
        for side in (made.a, made.b):
            some = [kind for kind in side.layer_kinds if kind.name.startswith(f"{word} ")]
            cells.append(f"{some[0].launches:g}" if some else "-")
        yield f"of one {word} layer", *cells
