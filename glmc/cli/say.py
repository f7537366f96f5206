"""Output of the commands, with every name as a terminal may show it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from glmc_runtime.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 160
"""Columns where no terminal says otherwise: names stay whole for grep and for a log."""


def console() -> Console:
    """The console for stdout."""
    from glmc.console import PlainConsole

    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return PlainConsole() if told else PlainConsole(width=WIDTH)


def say(text: str, *, err: bool = False) -> None:
    """Print lines."""
    typer.echo(printable_lines(text), err=err)
