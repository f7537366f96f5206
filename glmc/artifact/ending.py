"""Signals that end the process: what they must not leave behind, and not interrupt."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from glmc_runtime.command.ending import ENDING, has_default, in_main_thread

_remembered: set[Path] = set()


@contextmanager
def removed_when_ended() -> Iterator[Callable[[Path], None]]:
    """Within the block, a signal that ends the process first removes the folders that were named
    to what the block is given.

    Only where the system's default holds, which runs no ``finally``: a program that handles the
    signal itself, such as the command line, is left to its own handler. Afterwards the process
    ends by the signal as it would have. Nothing is changed outside the main thread, which alone
    may set handlers.
    """
    own: list[Path] = []

    def remember(path: Path) -> None:
        own.append(path)
        _remembered.add(path)

    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:  # and not a fork, whose parent goes on writing
            for path in tuple(_remembered):
                shutil.rmtree(path, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    taken = [number for number in ENDING if in_main_thread() and has_default(number)]
    for number in taken:
        signal.signal(number, end)
    try:
        yield remember
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        _remembered.difference_update(own)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come within the block take effect at its end, Ctrl-C too.

    By handlers and not by the mask of a thread, since the system gives a signal to any thread.
    """
    if not in_main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    # None is a handler that another language has set.
    handled = {name: old for name, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in handled:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, old in handled.items():
            signal.signal(number, old)
        for arrived in dict.fromkeys(came):
            signal.raise_signal(arrived)
