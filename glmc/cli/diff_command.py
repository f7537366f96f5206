"""``glmc diff A B``: what differs between two compiles, in ten lines and then in detail."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from glmc.cli.diff_sides import both_sides
from glmc.cli.say import say
from glmc.cli.stages import is_silent
from glmc.observe.diff.compare import compare
from glmc.observe.diff.words import detail_lines, summary_lines
from glmc_runtime.printable import printable


def diff_command(
    a: Annotated[
        str,
        typer.Argument(
            help="An artifact, a dump, a history.json, or a model, which is compiled without "
            "weights; in quotes a model with options of its own: 'glm-4.7 --passes-off rope'."
        ),
    ],
    b: Annotated[str, typer.Argument(help="What A is compared with.")],
    stat: Annotated[bool, typer.Option("--stat", help="Show the summary alone.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 when something differs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Target of a model; default: that of the other side, or cpu.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16, of a model.")
    ] = None,
    abi_profile: Annotated[str | None, typer.Option(help="P-A, P-B or P-C, of a model.")] = None,
    passes_off: Annotated[
        list[str] | None, typer.Option(help="Leave this pass out of a model; repeatable.")
    ] = None,
) -> int:
    """Show what differs between two artifacts, dumps or compiles, paired by pass and node."""
    flags = {
        "target": target,
        "dtype": dtype,
        "abi_profile": abi_profile,
        "passes_off": tuple(passes_off) if passes_off else None,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    comparison = compare(*both_sides(a, b, given, silent=is_silent(as_json)))
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        lines = [*summary_lines(comparison)]
        if not stat:
            lines += detail_lines(comparison)
        say("\n".join(map(printable, lines)))
    return 1 if exit_code and comparison.differs else 0
