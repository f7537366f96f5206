"""``glmc align A B``: how far the values of two runs are apart, and where they first diverge."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from glmc.cli.align_own import OwnErrors, require_checkpoint, require_test_place
from glmc.cli.align_sides import OPTIONS, both_sides, require_options
from glmc.cli.options import OUTPUT_GROUP, Json, complete, models, option
from glmc.cli.page_file import (
    CompilePageOption,
    linked_compile,
    require_page_place,
    write_page,
)
from glmc.cli.runtime_commands import parameter_of
from glmc.cli.stages import importing, is_silent
from glmc.errors import UsageError
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.record.layers import layers_from
from glmc_runtime.record.options import RecordOptions

_WHICH = "Which values, and how far apart"
_THRESHOLDS = ("rounding", "xray")


def align_command(**values: Any) -> int:
    """Compare the tensors of two runs value by value, and say where they first diverge.

    Values are paired by node, by name, and by the place of a module in the tree where names
    differ. A checkpoint and an artifact are recorded on the spot, B with the tokens of A. The
    calls of B, an artifact, also run on what A has: own error beside what is inherited.
    """
    own = {name: values.pop(name) for name in signature(_align).parameters if name in values}
    return _align(**own, recording=SimpleNamespace(**values))


def _align(
    a: Annotated[
        str,
        typer.Argument(
            help="The reference: a record (.h5), a summary (.csv), a folder of dumped tensors, a "
            "checkpoint or an artifact.",
            metavar="A",
            autocompletion=models,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            help="What is compared with it, likewise.", metavar="B", autocompletion=models
        ),
    ],
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
            "Where own error is unknown. rounding: what the dtype explains through the depth of "
            "the model; xray: torch_xray's rule, inferred.",
            _WHICH,
            metavar="NAME",
            names=complete(lambda: _THRESHOLDS),
        ),
    ] = "rounding",
    no_own: Annotated[
        bool,
        option(
            "Leave out own error: the calls of B, an artifact, are not run beside A, and the "
            "model is not compiled again.",
            _WHICH,
            "--no-own",
        ),
    ] = False,
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
    compile_page: CompilePageOption = None,
    test: Annotated[
        Path | None,
        option(
            "Write a pytest file of the first call that is wrong by itself: B is an artifact.",
            OUTPUT_GROUP,
            metavar="FILE",
        ),
    ] = None,
    exit_code: Annotated[
        bool, option("Exit with 1 when something is found.", OUTPUT_GROUP, "--exit-code")
    ] = False,
    as_json: Json = False,
    *,
    recording: SimpleNamespace,
) -> int:
    wanted = _wanted(layers, modules)
    if page is not None:
        if as_json:
            raise UsageError("--page and --json are two answers", remedy="ask for one")
        require_page_place(page, [Path(text) for text in (a, b) if Path(text).exists()])
    linked = linked_compile(compile_page, page)
    require_options((a, b), recording)
    silent = is_silent(as_json)
    with stopped_at_once(), importing(silent=silent):
        from glmc.check.align.by_node import sides as sides_of
        from glmc.check.align.compare import align
        from glmc.check.align.csv_file import require_csv_place, write_csv
        from glmc.check.align.json_form import alignment_to_json
        from glmc.check.align.nothing_compared import require_values
        from glmc.check.align.page import alignment_page
        from glmc.check.align.thresholds import thresholds_named
        from glmc.cli.align_report import show

    judge = thresholds_named(thresholds)
    if csv is not None:
        require_csv_place(csv)
    if test is not None:
        require_test_place(test, b, no_own=no_own)
    require_checkpoint(recording.checkpoint)
    own = OwnErrors((a, b), recording, test, as_json=as_json, left_out=no_own)
    with both_sides((a, b), recording, silent=silent) as sides:
        compared = align(*sides, judge, wanted)
        require_values(compared, sides, wanted, _asked(layers, modules))
        if linked is not None:
            linked.require_one_of(sides_of(compared))
        alignment = own.fill(compared, sides[0], wanted)
    if csv is not None:
        write_csv(csv, alignment)
    if as_json:
        typer.echo(json.dumps(alignment_to_json(alignment)))
    else:
        show(alignment, every=every, worst=worst)
    if page is not None:
        write_page(page, alignment_page(alignment, linked.address if linked else None))
    own.write_test()
    return 1 if exit_code and alignment.first is not None else 0


_OWN = [
    each
    for each in signature(_align, eval_str=True).parameters.values()
    if each.name != "recording"
]
# As typer reads it: the options of a side that is recorded are those of that command.
align_command.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        *(each.replace(kind=Parameter.KEYWORD_ONLY) for each in _OWN),
        *map(parameter_of, OPTIONS),
    ]
)


def _wanted(layers: str | None, modules: list[str] | None) -> Callable[[str, int | None], bool]:
    """Which values are compared; raises RequestError for what is no list of layers."""
    chosen = layers_from(layers) if layers else frozenset()
    return RecordOptions((), layers=chosen, modules=tuple(modules or ())).wants


def _asked(layers: str | None, modules: list[str] | None) -> str:
    """Those options as they were typed."""
    flags = [f"--modules '{each}'" for each in modules or ()]
    return " ".join(([f"--layers {layers}"] if layers else []) + flags)
