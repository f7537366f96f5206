"""Work on several files at a time, told about in the thread that waits for it.

A hash is bound by one processor, a disk by none: so files are read in threads, and what each reads
comes back through a queue. Whoever is told may raise, which ends the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Told = Callable[[int], object]
MOST_THREADS = 8


class StoppedError(Exception):
    """Work that goes on in a thread although somebody ended it."""


def side_by_side(
    items: Sequence[Item], work: Callable[[Item, Told], object], told: Told, threads: int | None
) -> None:
    """Call ``work(item, tell)`` for each item, in ``threads`` threads (None: one for each
    processor, ``MOST_THREADS`` at most); what it tells is passed to ``told`` here.

    The first error ends the others; one of those that came is raised, or what ``told`` raised.
    """
    count = min(len(items), threads or min(os.cpu_count() or 1, MOST_THREADS))
    if count < 2:
        for item in items:
            work(item, told)
        return
    said: SimpleQueue[int | None] = SimpleQueue()
    stopped = Event()

    def tell(number: int) -> None:
        if stopped.is_set():
            raise StoppedError
        said.put(number)

    def run(item: Item) -> None:
        try:
            work(item, tell)
        except BaseException:
            stopped.set()
            raise
        finally:
            said.put(None)

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, item) for item in items]
        try:
            left = len(items)
            while left:
                number = said.get()
                if number is not None:
                    told(number)
                    continue
                left -= 1
                if stopped.is_set():
                    break
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, StoppedError):
            raise error
