"""``glmc diff A B``: what differs between two compiles, in ten lines and then in detail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from glmc.cli.diff_sides import all_sides
from glmc.cli.options import (
    MODEL_GROUP,
    OUTPUT_GROUP,
    AbiProfile,
    Dtype,
    Json,
    PassesOff,
    all_targets,
    models,
    option,
)
from glmc.cli.page_file import require_page_place, write_page
from glmc.cli.say import say
from glmc.cli.stages import is_silent
from glmc.errors import UsageError
from glmc.observe.diff.compare import compare
from glmc.observe.diff.words import detail_lines, summary_lines
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.printable import printable


def diff_command(
    a: Annotated[
        str,
        typer.Argument(
            help="An artifact, a dump, a history.json, or a model, which is compiled without "
            "weights; in quotes a model with options of its own: 'glm-4.7 --passes-off rope'.",
            metavar="A",
            autocompletion=models,
        ),
    ],
    b: Annotated[
        list[str],
        typer.Argument(
            help="What A is compared with; several with --page.",
            metavar="B...",
            autocompletion=models,
        ),
    ],
    stat: Annotated[bool, option("Show the summary alone.", OUTPUT_GROUP, "--stat")] = False,
    exit_code: Annotated[
        bool, option("Exit with 1 when something differs.", OUTPUT_GROUP, "--exit-code")
    ] = False,
    page: Annotated[
        Path | None,
        option("Write the compiles side by side as an HTML page.", OUTPUT_GROUP, metavar="FILE"),
    ] = None,
    as_json: Json = False,
    target: Annotated[
        str | None,
        option(
            "Of a model; default: that of the other side, or cpu.",
            MODEL_GROUP,
            metavar="NAME",
            names=all_targets,
        ),
    ] = None,
    dtype: Dtype = None,
    abi_profile: AbiProfile = None,
    passes_off: PassesOff = None,
) -> int:
    """Show what differs between two artifacts, dumps or compiles, paired by pass and node."""
    values = {
        "target": target,
        "dtype": dtype,
        "abi_profile": abi_profile,
        "passes_off": tuple(passes_off) if passes_off else None,
    }
    flags = {name: value for name, value in values.items() if value is not None}
    if page is not None:
        return _page(page, [a, *b], flags, as_json=as_json, exit_code=exit_code)
    if len(b) > 1:
        raise UsageError(
            "more than two are compared on a page only",
            expected="A and B",
            found=", ".join((a, *b)),
            remedy="add --page FILE",
        )
    comparison = compare(*all_sides([a, *b], flags, silent=is_silent(as_json)))
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        lines = [*summary_lines(comparison)]
        if not stat:
            lines += detail_lines(comparison)
        say("\n".join(map(printable, lines)))
    return 1 if exit_code and comparison.differs else 0


def _page(
    target: Path, texts: list[str], flags: Mapping[str, Any], *, as_json: bool, exit_code: bool
) -> int:
    """Write the page; the exit status is that of any difference from A."""
    with stopped_at_once():
        from glmc.observe.page.side_by_side import MOST, side_by_side_page

    if as_json:
        raise UsageError("--page and --json are two answers", remedy="ask for one")
    if len(texts) > MOST:
        raise UsageError(
            "a page has a column for each compile",
            expected=f"at most {MOST} of them",
            found=str(len(texts)),
            remedy="leave some out",
        )
    require_page_place(target, [Path(text) for text in texts if Path(text).exists()])
    first, *others = all_sides(texts, flags, silent=is_silent(as_json))
    comparisons = [compare(first, other) for other in others]
    write_page(target, side_by_side_page([first, *others], comparisons))
    return 1 if exit_code and any(each.differs for each in comparisons) else 0
