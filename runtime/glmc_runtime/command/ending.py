"""Signals that end a command: everything is cleaned up as on Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPED = 128 + signal.SIGINT
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


@contextmanager
def stopped_saying(words: Callable[[], str]) -> Iterator[None]:
    """Let a Ctrl-C in the block say what it left: the command line prints these words."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(words()) from stop


@contextmanager
def stopped_at_once(words: str = "stopped") -> Iterator[None]:
    """While modules are imported: Ctrl-C says the words and ends the process there and then.

    Raised inside an import, it leaves libraries half made that go on all the same: numpy has been
    seen to do so until the stack was full. Nothing is there to be cleaned up at that time.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        say_stopped(words)
        sys.stderr.flush()
        os._exit(_STOPPED)

    ours = in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def say_stopped(words: str) -> int:
    """Say that a command was stopped, and return the status that a shell reports for Ctrl-C."""
    start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
    print(f"{start}{words or 'stopped'}", file=sys.stderr)
    return _STOPPED


@contextmanager
def interrupt_noted() -> Iterator[Callable[[], bool]]:
    """Within the block a first Ctrl-C is noted, for which the function asks; a second one raises
    KeyboardInterrupt as ever. Elsewhere than in the main thread nothing is noted."""
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if not in_main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


def in_main_thread() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


def has_default(number: signal.Signals) -> bool:
    """Whether the system's default holds for a signal."""
    return signal.getsignal(number) is signal.SIG_DFL
