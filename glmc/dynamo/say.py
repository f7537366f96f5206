"""Messages that are logged once in a process, however many graphs it compiles."""

from __future__ import annotations

import sys
import warnings
from functools import cache

from glmc_runtime.printable import printable_lines


@cache
def say_once(text: str) -> None:
    """One line on stderr."""
    say(text)


def say(text: str) -> None:
    print(f"glmc: {printable_lines(text)}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    warnings.warn(printable_lines(text), stacklevel=3)
