"""``glmc timeline A [B]``: where the time of a step goes, and what A pays that B does not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glmc.cli.options import OUTPUT_GROUP, Json, option
from glmc.cli.page_file import (
    CompilePageOption,
    linked_compile,
    require_page_place,
    write_page,
)
from glmc.cli.say import console, say
from glmc.errors import UsageError
from glmc_runtime.command.ending import stopped_at_once

if TYPE_CHECKING:
    from glmc.observe.page.linked import CompilePage
    from glmc.observe.timeline.diff import TimelineDiff
    from glmc.observe.timeline.sections import Section
    from glmc.observe.timeline.table import Timeline
    from glmc.observe.timeline.totals import Totals

STEPS_GROUP = "Steps"
_SLICE = re.compile(r"^(-?\d+)?:(-?\d+)?$")


def timeline_command(
    a: Annotated[
        Path,
        typer.Argument(help="A profiler's file: docs/timeline.md lists which.", metavar="A"),
    ],
    b: Annotated[Path | None, typer.Argument(help="What A is compared with.", metavar="B")] = None,
    steps: Annotated[
        str | None,
        option(
            "Which steps of a kind count, as a slice such as 2:; default: all but the first two.",
            STEPS_GROUP,
            metavar="FROM:TO",
        ),
    ] = None,
    phase: Annotated[
        str | None,
        option(
            "decode, prefill or mixed; default: what there is most of.", STEPS_GROUP, metavar="NAME"
        ),
    ] = None,
    as_json: Json = False,
    csv_file: Annotated[
        Path | None,
        option("Write every row as CSV.", OUTPUT_GROUP, "--csv", metavar="FILE"),
    ] = None,
    page: Annotated[
        Path | None,
        option("Write one step and all rows as an HTML page.", OUTPUT_GROUP, metavar="FILE"),
    ] = None,
    compile_page: CompilePageOption = None,
    markdown: Annotated[bool, option("Print Markdown tables.", OUTPUT_GROUP, "--markdown")] = False,
) -> None:
    """Show where the time of a step goes; with B, what differs and what A pays that B does not.

    Times are microseconds of one step: of those of equal phase and size the one whose time is the
    median. Operators, bubbles and communication add up to its time.
    """
    part = _slice(steps)
    answers = {"--json": as_json, "--markdown": markdown, "--page": page is not None}
    if sum(answers.values()) > 1:
        raise UsageError(
            f"{' and '.join(flag for flag, asked in answers.items() if asked)} are two answers",
            remedy="ask for one",
        )
    with stopped_at_once():
        from glmc.observe.timeline.diff import diff
        from glmc.observe.timeline.encode import diff_json, diff_rows, totals_json, totals_rows
        from glmc.observe.timeline.readers.open import open_timeline
        from glmc.observe.timeline.sections import diff_sections, one_sections
        from glmc.observe.timeline.steps import select
        from glmc.observe.timeline.totals import totals
        from glmc.observe.timeline.words import diff_lines, one_lines
    if page is not None:
        require_page_place(page, [])
    linked = linked_compile(compile_page, page)
    first = open_timeline(a)
    if b is None:
        made = totals(first, select(first, phase, part))
        data, rows = totals_json(first, made), totals_rows(first, made)
        lines, sections = one_lines(first, made), one_sections(first, made)
        html = None if page is None else _one_page(first, made, linked)
    else:
        second = open_timeline(b)
        compared = diff(first, second, phase, part)
        data, rows = diff_json(first, second, compared), diff_rows(first, second, compared)
        lines = diff_lines(first, second, compared)
        sections = diff_sections(first, second, compared)
        html = None if page is None else _diff_page(first, second, compared, linked)
    if csv_file is not None:
        _write_csv(csv_file, rows)
    if page is not None and html is not None:
        write_page(page, html)  # before tables, whose reader may end first, as head does
    if as_json:
        typer.echo(json.dumps(data))
    elif markdown:
        say("\n".join(_markdown(lines, sections)))
    else:
        _show(lines, sections)


def _one_page(timeline: Timeline, made: Totals, linked: CompilePage | None) -> str:
    with stopped_at_once():
        from glmc.observe.timeline.page import one_page
    return one_page(timeline, made, _address(linked, timeline))


def _diff_page(a: Timeline, b: Timeline, made: TimelineDiff, linked: CompilePage | None) -> str:
    with stopped_at_once():
        from glmc.observe.timeline.page import diff_page
    return diff_page(a, b, made, _address(linked, a, b))


def _address(linked: CompilePage | None, *sides: Timeline) -> str | None:
    if linked is None:
        return None
    linked.require_one_of((side.facts.model, side.facts.target) for side in sides)
    return linked.address


def _slice(text: str | None) -> slice | None:
    if text is None:
        return None
    match = _SLICE.match(text)
    if match is None:
        raise UsageError(
            "--steps is no slice",
            expected="FROM:TO, such as 2: or 0:10",
            found=repr(text),
            remedy="--steps 3:4 for the step 3 alone, the first being 0",
        )
    return slice(*(int(each) if each else None for each in match.groups()))


def _show(lines: Iterable[str], sections: Iterable[Section]) -> None:
    from rich.table import Table

    out = console()
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
    for section in sections:
        table = Table(title=section.title, title_justify="left")
        for place, column in enumerate(section.columns):
            justify = "left" if place < section.names else "right"
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in section.rows:
            table.add_row(*row)
        out.print()
        out.print(table)


def _markdown(lines: Iterable[str], sections: Iterable[Section]) -> Iterator[str]:
    yield from (f"* {line}" for line in lines)
    for section in sections:
        marks = ["---" if at < section.names else "---:" for at in range(len(section.columns))]
        yield from ("", f"### {section.title}", "")
        for row in (section.columns, marks, *section.rows):
            cells = (cell.replace("|", "\\|") for cell in row)
            yield f"| {' | '.join(cells)} |"


def _write_csv(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise UsageError(
            f"the rows can't be written: {error.strerror}", place=str(path), remedy="--csv FILE"
        ) from error
    say(f"{path} written", err=True)
