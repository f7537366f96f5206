"""A percentage on one line of a terminal, while the files of a large artifact are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TextIO

from glmc_runtime.command.units import bytes_text, seconds_text

CHECKING = "checking the artifact's files"
LARGE = 256 << 20  # bytes; less is read in about a second


@contextmanager
def shown_progress(
    label: str, stream: TextIO | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for (bytes done, bytes in all), or None where ``stream`` is no terminal.

    ``stream`` is stderr unless given. The line appears for more than :data:`LARGE` bytes, is
    written when the percentage changes, after a second with the rate and the time left, and is
    wiped at the end, also that by an error.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield None
        return
    shown, width, started = "", 0, perf_counter()

    def show(done: int, total: int) -> None:
        nonlocal shown, width
        percentage = f"{label} {100 * done // total:3d}%" if total > LARGE else ""
        if percentage != shown:
            line = percentage + _rate(done, total, perf_counter() - started)
            out.write(f"\r{line:<{width}}")
            out.flush()
            shown, width = percentage, max(width, len(line))

    try:
        yield show
    finally:
        if shown:
            out.write("\r" + " " * width + "\r")
            out.flush()


def _rate(done: int, total: int, seconds: float) -> str:
    """Bytes a second and the time left, as soon as a second says something about them."""
    if seconds < 1 or not 0 < done < total:
        return ""
    left = seconds * (total - done) / done
    return f" of {bytes_text(total)}, {bytes_text(done / seconds)}/s, {seconds_text(left)} left"
