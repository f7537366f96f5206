"""Stages of a command that end in a line of stderr; what imports nothing that takes seconds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from glmc.cli.clock import elapsed
from glmc.cli.say import say
from glmc.garbage import rare_collections

_IMPORTING = "importing torch and transformers"


def is_silent(as_json: bool) -> bool:
    """Whether no progress is shown: with ``--json``, and with ``-q``."""
    return as_json or not logging.getLogger("glmc").isEnabledFor(logging.WARNING)


def stage_line(text: str) -> None:
    """A stage begins: what it is and what the clock shows."""
    say(f"at {elapsed():.1f} s: {text}", err=True)


@contextmanager
def importing(*, silent: bool) -> Iterator[None]:
    """Say that the block imports: the first seconds of a command that computes."""
    shown = not silent and sys.stderr.isatty()
    if shown:
        sys.stderr.write(_IMPORTING)
        sys.stderr.flush()
    elif not silent:
        stage_line(_IMPORTING)
    try:
        with rare_collections():
            yield
    finally:
        if shown:
            sys.stderr.write(f"\r{' ' * len(_IMPORTING)}\r")
            sys.stderr.flush()
