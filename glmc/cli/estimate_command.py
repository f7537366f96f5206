"""``glmc estimate``: what fits into a card, and how long a step would take there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from glmc.cli.options import (
    MODEL_GROUP,
    RANKS_GROUP,
    Collectives,
    ExpertParallel,
    Json,
    Model,
    complete,
    option,
)
from glmc.errors import UsageError
from glmc.estimates.names import device_names, require_device
from glmc.presets.names import require_model
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.command.request_files import text_of_file

if TYPE_CHECKING:
    from rich.console import Console

    from glmc.estimates.estimate import Estimate

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


Cards = Annotated[
    int | None,
    option("Cards of one host (default: those of --tensor-parallel).", RANKS_GROUP, metavar="N"),
]
Ranks = Annotated[
    int | None,
    option(
        "Deal the model to this many of them; without it, every way is compared.",
        RANKS_GROUP,
        "--tensor-parallel",
        metavar="N",
    ),
]


def estimate_command(
    model: Model,
    device: Device,
    dtype: Dtype = None,
    cards: Cards = None,
    tensor_parallel: Ranks = None,
    expert_parallel: ExpertParallel = False,
    collectives: Collectives = None,
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
    table = None if collectives is None else text_of_file("--collectives", str(collectives))
    with stopped_at_once():
        from glmc.estimates.estimate import estimate
        from glmc.estimates.traffic import Traffic
        from glmc.estimates.words import to_json
    made = estimate(
        model,
        device,
        Traffic(batches, context, prompt),
        dtype,
        cards or tensor_parallel or 1,
        tensor_parallel,
        expert_parallel,
        table,
    )
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
    from glmc.estimates.words import (
        COLUMNS,
        OPTIONS,
        detail,
        header,
        notes,
        option_rows,
        rows,
        title,
    )

    out = console()
    for line in header(made):
        out.print(line, highlight=False, soft_wrap=True)
    if len(made.options) > 1:
        out.print()
        _table(out, OPTIONS, option_rows(made), 1)
    for step in made.placed.steps:
        out.print()
        for line in (title(step), detail(step)):
            out.print(line, highlight=False, soft_wrap=True)
        _table(out, COLUMNS, rows(step), 2)
    out.print()
    for line in notes(made):
        out.print(line, highlight=False, soft_wrap=True)


def _table(
    out: Console, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], names: int
) -> None:
    """The first columns are names, the others numbers."""
    from rich.table import Table

    table = Table() if out.width >= _WIDE else Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < names else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)
