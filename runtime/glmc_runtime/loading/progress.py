"""A percentage on one line of a terminal, while the files of a large artifact are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

CHECKING = "checking the artifact's files"
LARGE = 256 << 20  # bytes; less is read in about a second


@contextmanager
def shown_progress(
    label: str, stream: TextIO | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for (bytes done, bytes in all), or None where ``stream`` is no terminal.

    ``stream`` is stderr unless given. The line appears for more than :data:`LARGE` bytes, is
    written when the percentage changes, and is wiped at the end, also that by an error.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield None
        return
    shown = ""

    def show(done: int, total: int) -> None:
        nonlocal shown
        line = f"{label} {100 * done // total:3d}%" if total > LARGE else ""
        if line != shown:
            out.write(f"\r{line}")
            out.flush()
            shown = line

    try:
        yield show
    finally:
        if shown:
            out.write("\r" + " " * len(shown) + "\r")
            out.flush()
