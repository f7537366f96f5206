"""One thread at a time: what shares the memory of a session runs whole, and in its own process.

Memory, inputs and KV blocks of a session are shared by all of its steps, so a step of one thread
waits until that of another has ended. Nothing is held between two steps, nor while a caller looks
at an event: streams of several threads take turns, token by token.

What the garbage collector ends may be found anywhere, in the middle of a step too. Such an ending
waits for nothing; it is done as soon as no step is under way.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from glmc_runtime.errors import RequestError


class Exclusive:
    """A lock that its thread may take again, for ``with``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._depth = 0
        self._owner = 0
        self._endings: deque[Callable[[], None]] = deque()
        self._stepped = threading.Condition(self._lock)
        self._working = self._waiting = 0

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            raise RequestError(
                "the session belongs to the process that loaded it, and this is a fork of that",
                expected=f"process {self._process}",
                found=f"process {os.getpid()}",
                remedy="load the artifact in the process that generates",
            )
        self._lock.acquire()
        # The owner first: what the garbage collector ends from here on is left for the exit.
        self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            if self._depth == 1:
                self._run_endings()
                if self._waiting:
                    self._stepped.notify_all()
        finally:
            self._depth -= 1
            if not self._depth:
                self._owner = 0
            self._lock.release()
        if self._endings:  # one that came between the last look and the release
            self._try_endings()

    def end(self, ending: Callable[[], None]) -> None:
        """Do ``ending`` now, or where a step is under way as soon as that has ended; never waits.

        In a fork of the process nothing is done: the memory there is nobody's.
        """
        if os.getpid() == self._process:
            self._endings.append(ending)
            self._try_endings()

    @contextmanager
    def working(self) -> Iterator[None]:
        """For a thread that takes steps until it has all that it wants, so others may wait."""
        with self:
            self._working += 1
        try:
            yield
        finally:
            with self:
                self._working -= 1

    def wait(self) -> bool:
        """Inside of a step of a thread that is :meth:`working`: let the others take one. False
        where all others that work wait themselves, or none does."""
        if self._working - self._waiting < 2:
            return False
        depth, self._depth, self._owner = self._depth, 0, 0
        self._waiting += 1
        try:
            self._stepped.wait()
        finally:
            self._owner = threading.get_ident()
            self._depth = depth
            self._waiting -= 1
        return True

    def _try_endings(self) -> None:
        if self._owner == threading.get_ident() or not self._lock.acquire(blocking=False):
            return  # whoever is inside does them
        self._depth, self._owner = 1, threading.get_ident()
        self.__exit__()

    def _run_endings(self) -> None:
        while self._endings:
            self._endings.popleft()()
