"""``glmc estimate``: what fits into a card, and how long a step would take there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from glmc.cli.options import MODEL_GROUP, Json, Model, complete, option
from glmc.errors import UsageError
from glmc.estimates.names import device_names, require_device
from glmc.presets.names import require_model
from glmc_runtime.command.ending import stopped_at_once

if TYPE_CHECKING:
    from rich.console import Console

    from glmc.estimates.estimate import Estimate, EstimatedStep

_TRAFFIC = "Traffic"
_WIDE = 100
Device = Annotated[
    str,
    option(
        f"{', '.join(device_names())} or a FILE.yaml that describes another (docs/estimate.md).",
        MODEL_GROUP,
        metavar="NAME",
        names=complete(device_names),
    ),
]
Dtype = Annotated[
    str | None,
    option("float32, bfloat16 or float16; default: the checkpoint's.", MODEL_GROUP, metavar="NAME"),
]
Batch = Annotated[
    str, option("Sequences that are decoded at once, such as 1,16,64.", _TRAFFIC, metavar="N,...")
]
Context = Annotated[
    int | None,
    option("Tokens of each (default: 8192, or all that the model knows).", _TRAFFIC, metavar="N"),
]
Prompt = Annotated[
    int | None,
    option("Tokens of a prompt, computed in one step (default: 512).", _TRAFFIC, metavar="N"),
]


def estimate_command(
    model: Model,
    device: Device,
    dtype: Dtype = None,
    batch: Batch = "1",
    context: Context = None,
    prompt: Prompt = None,
    json_: Json = False,
) -> None:
    """Predict memory and time of a model on a device: what fits, and each kernel of a step.

    Two layers of each kind are compiled, without weights, which takes about ten seconds of CPU
    time. Nothing runs on the device; the numbers of its description have their sources.
    """
    require_model(model)
    require_device(device)
    batches = _numbers(batch)
    with stopped_at_once():
        from glmc.estimates.estimate import estimate
        from glmc.estimates.traffic import Traffic
        from glmc.estimates.words import to_json
    made = estimate(model, device, Traffic(batches, context, prompt), dtype)
    if json_:
        typer.echo(json.dumps(to_json(made)))
    else:
        _show(made)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise UsageError(
            "--batch is no list of integers", expected="such as 1,16,64", found=repr(text)
        ) from error


def _show(made: Estimate) -> None:
    from glmc.cli.say import console
    from glmc.estimates.words import detail, header, notes, title

    out = console()
    for line in header(made):
        out.print(line, highlight=False, soft_wrap=True)
    for step in made.steps:
        out.print()
        for line in (title(step), detail(step)):
            out.print(line, highlight=False, soft_wrap=True)
        _table(out, step)
    out.print()
    for line in notes(made):
        out.print(line, highlight=False, soft_wrap=True)


def _table(out: Console, step: EstimatedStep) -> None:
    from rich.table import Table

    from glmc.estimates.words import COLUMNS, rows

    table = Table() if out.width >= _WIDE else Table(box=None, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place < 2 else "right", overflow="fold")
    for row in rows(step):
        table.add_row(*row)
    out.print(table)
