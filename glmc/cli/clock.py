"""Times of a command as a clock on the wall shows them, imports included."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from glmc_runtime.command.units import seconds_text

if TYPE_CHECKING:
    from glmc.pipeline.events import Event, Observer

_STAT = Path("/proc/self/stat")
_began = time.perf_counter()


def begin(of_process: bool) -> None:
    """A command begins now, or, where the process is there for it alone, began with that."""
    global _began
    _began = time.perf_counter() - (_age_of_process() if of_process else 0.0)


def elapsed() -> float:
    """Seconds since the command began."""
    return time.perf_counter() - _began


def _age_of_process() -> float:
    """Seconds, as Linux knows them; elsewhere none: what came before the first line is left out."""
    try:
        after_name = _STAT.read_text().rpartition(")")[2].split()
        ticks = int(after_name[19])  # between the start of the machine and that of the process
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0
    return max(age, 0.0)


class Timed:
    """An observer, and the seconds that it took."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seconds = 0.0

    def observe(self, event: Event) -> None:
        started = time.perf_counter()
        try:
            self._observer.observe(event)
        finally:
            self.seconds += time.perf_counter() - started


def parts_text(total: float, parts: dict[str, float], rest: str) -> str:
    """``16.1 s: imports 3.4 s, compile 8.2 s, proof 3.1 s``: what took time, ``rest`` what is left
    of the total, in the order of ``parts``, where its own number does not count."""
    parts = {**parts, rest: total - sum(parts.values()) + parts.get(rest, 0.0)}
    each = (f"{name} {seconds_text(seconds)}" for name, seconds in parts.items() if seconds > 0)
    return f"{seconds_text(total)}: {', '.join(each)}"
