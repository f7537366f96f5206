"""The processes of a server: which there are, how much memory they hold, and whether they end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

SHARED_MEMORY = Path("/dev/shm")


def processes_of(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def named(processes: Sequence[psutil.Process], word: str) -> psutil.Process:
    """The one whose title or command has this word."""
    found = [each for each in processes if any(word in text for text in each.cmdline())]
    assert len(found) == 1, [each.cmdline() for each in processes]
    return found[0]


def left(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after so many seconds at most."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def resident(processes: Sequence[psutil.Process]) -> int:
    """Bytes of memory that they hold."""
    return sum(int(each.memory_info().rss) for each in processes)


def shared_memory() -> set[str]:
    """Names of what is in shared memory."""
    return {each.name for each in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
