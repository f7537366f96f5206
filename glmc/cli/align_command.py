"""``glmc align A B``: how far the values of two runs are apart, and where they first diverge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from glmc.cli.options import OUTPUT_GROUP, Json, complete, option
from glmc.cli.page_file import require_page_place, write_page
from glmc.cli.stages import importing, is_silent
from glmc.errors import UsageError
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.record.layers import layers_from
from glmc_runtime.record.options import RecordOptions

_WHICH = "Which values, and how far apart"
_THRESHOLDS = ("rounding", "xray")


def align_command(
    a: Annotated[
        str,
        typer.Argument(
            help="The reference: a record (.h5), a summary (.csv) or a folder of dumped tensors.",
            metavar="A",
        ),
    ],
    b: Annotated[str, typer.Argument(help="What is compared with it, likewise.", metavar="B")],
    layers: Annotated[
        str | None, option("Only these, such as 0,3-5.", _WHICH, metavar="LAYERS")
    ] = None,
    modules: Annotated[
        list[str] | None,
        option("Only modules of this name, such as '*.mlp*'; repeatable.", _WHICH, metavar="GLOB"),
    ] = None,
    thresholds: Annotated[
        str,
        option(
            "rounding: what the dtype explains through the depth of the model; xray: torch_xray's "
            "rule, inferred.",
            _WHICH,
            metavar="NAME",
            names=complete(lambda: _THRESHOLDS),
        ),
    ] = "rounding",
    every: Annotated[
        bool, option("A line for each value, not for each layer.", OUTPUT_GROUP, "--all")
    ] = False,
    worst: Annotated[
        bool, option("A line for each value, the worst first.", OUTPUT_GROUP, "--worst")
    ] = False,
    csv: Annotated[
        Path | None,
        option("Write a csv, torch_xray's columns first.", OUTPUT_GROUP, metavar="FILE"),
    ] = None,
    page: Annotated[
        Path | None,
        option("Write maps of layers by ops as an HTML page.", OUTPUT_GROUP, metavar="FILE"),
    ] = None,
    exit_code: Annotated[
        bool, option("Exit with 1 when something is found.", OUTPUT_GROUP, "--exit-code")
    ] = False,
    as_json: Json = False,
) -> int:
    """Compare two records value by value, and say where they first diverge.

    Values are paired by node, by name, and by the place of a module in the tree where names
    differ.
    """
    wanted = _wanted(layers, modules)
    if page is not None:
        if as_json:
            raise UsageError("--page and --json are two answers", remedy="ask for one")
        require_page_place(page, [Path(text) for text in (a, b) if Path(text).exists()])
    with stopped_at_once(), importing(silent=is_silent(as_json)):
        from glmc.check.align.compare import align
        from glmc.check.align.csv_file import require_csv_place, write_csv
        from glmc.check.align.json_form import alignment_to_json
        from glmc.check.align.page import alignment_page
        from glmc.check.align.sides import side_of
        from glmc.check.align.thresholds import thresholds_named
        from glmc.cli.align_report import show

    judge = thresholds_named(thresholds)
    if csv is not None:
        require_csv_place(csv)
    alignment = align(side_of(a), side_of(b), judge, wanted)
    if csv is not None:
        write_csv(csv, alignment)
    if as_json:
        typer.echo(json.dumps(alignment_to_json(alignment)))
    else:
        show(alignment, every=every, worst=worst)
    if page is not None:
        write_page(page, alignment_page(alignment))
    return 1 if exit_code and alignment.first is not None else 0


def _wanted(layers: str | None, modules: list[str] | None) -> Callable[[str, int | None], bool]:
    """Which values are compared; raises RequestError for what is no list of layers."""
    chosen = layers_from(layers) if layers else frozenset()
    return RecordOptions((), layers=chosen, modules=tuple(modules or ())).wants
