"""``glmc compile --if-changed``: nothing is imported that computes until something changed."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from glmc.artifact.reader import read_artifact
from glmc.artifact.replace import is_artifact
from glmc.artifact.up_to_date import model_of, reason_to_compile
from glmc.cli.say import console, say
from glmc.cli.stages import is_silent
from glmc.config import CompileOptions
from glmc.errors import PackError
from glmc.presets.names import place_of


def is_up_to_date(
    model: str, path: Path, options: CompileOptions, *, report: bool, as_json: bool
) -> bool:
    """Whether the artifact is what this compile would make; said on stdout, and the reason why not
    on stderr. Raises :class:`PackError` for an artifact of another model, by its name: that is
    replaced with ``force`` alone."""
    directory, name = place_of(model)
    before = model_of(path)
    if not options.force and before != name and is_artifact(path):
        raise PackError(
            "the output path has an artifact of another model",
            place=str(path),
            expected=f"one of {name}",
            found="one that names no model" if before is None else f"one of {before}",
            remedy="choose another path, or pass --force to replace it",
        )
    reason = reason_to_compile(path, directory, name, options)
    if reason is not None:
        if not is_silent(as_json):
            say(f"compiling {path}: {reason}", err=True)
        return False
    if as_json:
        stored = read_artifact(path).report
        typer.echo(json.dumps({"artifact": str(path), "up_to_date": True, **stored}))
        return True
    if report:
        from glmc.cli.tables import calls_table, passes_table

        stored = read_artifact(path).report
        for table in (passes_table(stored), calls_table(stored)):
            console().print(table)
    say(f"{path} is up to date")
    return True
