"""What a process says once, however many graphs it compiles."""

from __future__ import annotations

import sys
import warnings
from functools import cache


@cache
def say_once(text: str) -> None:
    """One line on stderr."""
    say(text)


def say(text: str) -> None:
    print(f"glmc: {text}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)
