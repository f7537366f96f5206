"""``glmc fit``: what a model or an artifact takes, and what fits into cards of which size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glmc.cli.options import MODEL_GROUP, Json, all_dtypes, all_targets, models, option
from glmc.errors import UsageError
from glmc.presets.names import preset_names, require_model
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.format.artifact_files import MANIFEST

if TYPE_CHECKING:
    from glmc_runtime.loading.fit import FitReport

_TARGET = "xpu"
_WIDE = 100
MEMORY_GROUP = "Cards and requests"


def fit_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A preset's name, a checkpoint directory or an artifact.",
            metavar="MODEL",
            autocompletion=models,
        ),
    ],
    device_memory: Annotated[
        list[str] | None,
        option(
            "Memory of a card, such as 96GiB or 96GB; repeatable.", MEMORY_GROUP, metavar="SIZE"
        ),
    ] = None,
    batch: Annotated[
        int | None, option("Sequences that must fit; default: 1.", MEMORY_GROUP, metavar="N")
    ] = None,
    context: Annotated[
        int | None,
        option("Tokens of each of them; default: at most 8192.", MEMORY_GROUP, metavar="N"),
    ] = None,
    cache_memory: Annotated[
        str | None,
        option(
            "Give the KV cache so much, and not all that is left.", MEMORY_GROUP, metavar="SIZE"
        ),
    ] = None,
    target: Annotated[
        str | None,
        option(
            "Of a model: cpu, cuda, xpu or an installed one; default: xpu.",
            MODEL_GROUP,
            metavar="NAME",
            names=all_targets,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            "Of a model: float32, bfloat16 or float16; default: the checkpoint's.",
            MODEL_GROUP,
            metavar="NAME",
            names=all_dtypes,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what fits into cards of several sizes: weights, KV cache, longest contexts, how many.

    An artifact is only read. Of a model two layers of each kind are compiled, without weights,
    which takes about ten seconds of CPU time.
    """
    require_model(model)
    written = model not in preset_names() and (Path(model) / MANIFEST).is_file()
    if written and (target is not None or dtype is not None):
        raise UsageError(
            "an artifact is of one target and dtype",
            found="--target or --dtype",
            remedy="leave it out, or name the model in place of the artifact",
        )
    from glmc_runtime.loading.fit import Wanted, artifact_fit

    wanted = Wanted(tuple(device_memory or ()), batch, context, cache_memory)
    if written:
        from glmc_runtime.loading.loader import load_artifact

        report = artifact_fit(load_artifact(model, verify_hashes=False), wanted)
    else:
        with stopped_at_once():
            from glmc.fit import model_fit

        report = model_fit(model, wanted, target or _TARGET, dtype)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        _show(report)


def _show(report: FitReport) -> None:
    from rich.table import Table

    from glmc.cli.say import console

    out = console()
    for line in report.header():
        out.print(line, highlight=False, soft_wrap=True)
    # Numbers are never cut short: in 80 columns there are no lines between them.
    table = Table() if out.width >= _WIDE else Table(box=None, pad_edge=False)
    rows = list(report.rows())
    for column, *cells in zip(report.columns(), *rows, strict=True):
        # Headings are the longest: they stand on several lines, so that no cell has to.
        table.add_column(column, justify="right", width=max(map(len, (*column.split(), *cells))))
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for line in report.notes():
        out.print(line, highlight=False, soft_wrap=True)
