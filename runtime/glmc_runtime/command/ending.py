"""Signals that end a command: everything is cleaned up as on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A scheduler or a container's end, and a terminal that was closed.
ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwound_when_ended() -> Iterator[None]:
    """For a command: within the block such a signal raises SystemExit, with the status that a shell
    reports for it, so that everything is cleaned up as on Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    taken = [number for number in ENDING if in_main_thread() and has_default(number)]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def in_main_thread() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


def has_default(number: signal.Signals) -> bool:
    """Whether the system's default holds for a signal."""
    return signal.getsignal(number) is signal.SIG_DFL
