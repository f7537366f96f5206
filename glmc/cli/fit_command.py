"""``glmc fit``: what a model or an artifact takes, and what fits into cards of which size."""

from __future__ import annotations

import json
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glmc.cli.options import MODEL_GROUP, all_dtypes, all_targets, models, option
from glmc.cli.runtime_commands import parameter_of
from glmc.errors import UsageError
from glmc.presets.names import preset_names, require_model
from glmc_runtime.cli.commands import FIT_OPTIONS
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.format.artifact_files import MANIFEST

if TYPE_CHECKING:
    from glmc_runtime.loading.fit import FitReport

_TARGET = "xpu"
_WIDE = 100


def fit_command(**values: Any) -> None:
    """Say what fits into cards of several sizes: weights, KV cache, longest contexts, how many.

    An artifact is only read. Of a model two layers of each kind are compiled, without weights,
    which takes about ten seconds of CPU time.
    """
    _fit(SimpleNamespace(**values))


_OF_MODELS: dict[str, Any] = {
    "target": option(
        "Of a model: cpu, cuda, xpu or an installed one; default: xpu.",
        MODEL_GROUP,
        metavar="NAME",
        names=all_targets,
    ),
    "dtype": option(
        "Of a model: float32, bfloat16 or float16; default: the checkpoint's.",
        MODEL_GROUP,
        metavar="NAME",
        names=all_dtypes,
    ),
}
_MODEL = typer.Argument(
    help="A preset's name, a checkpoint directory or an artifact.",
    metavar="MODEL",
    autocompletion=models,
)
# As typer reads it: the options of an artifact are those of the runtime's command.
fit_command.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter("model", Parameter.KEYWORD_ONLY, annotation=Annotated[str, _MODEL]),
        *(
            Parameter(
                name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, each]
            )
            for name, each in _OF_MODELS.items()
        ),
        *map(parameter_of, FIT_OPTIONS),
    ]
)


def _fit(options: SimpleNamespace) -> None:
    model: str = options.model
    target: str | None = options.target
    dtype: str | None = options.dtype
    require_model(model)
    written = model not in preset_names() and (Path(model) / MANIFEST).is_file()
    if written and (target is not None or dtype is not None):
        raise UsageError(
            "an artifact is of one target and dtype",
            found="--target or --dtype",
            remedy="leave it out, or name the model in place of the artifact",
        )
    from glmc_runtime.loading.fit import Wanted, artifact_fit

    wanted = Wanted(
        tuple(options.device_memory or ()), options.batch, options.context, options.cache_memory
    )
    if written:
        from glmc_runtime.loading.loader import load_artifact

        report = artifact_fit(load_artifact(model, verify_hashes=False), wanted)
    else:
        with stopped_at_once():
            from glmc.fit import model_fit

        report = model_fit(model, wanted, target or _TARGET, dtype)
    if options.json:
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
