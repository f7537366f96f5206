"""The processes of a server: which there are, how much memory they hold, and whether they end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import psutil  # type: ignore[import-untyped]

SHARED_MEMORY = Path("/dev/shm")


def processes_of(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def session_of(pid: int) -> list[psutil.Process]:
    """All processes of the session that a process has begun, whoever is above them now."""
    return [each for each in psutil.process_iter() if _session(each.pid) == pid]


def named(processes: Sequence[psutil.Process], word: str) -> psutil.Process:
    """The one whose title or command has this word."""
    found = [each for each in processes if any(word in text for text in each.cmdline())]
    assert len(found) == 1, [each.cmdline() for each in processes]
    return found[0]


def left(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after so many seconds at most."""
    ends = monotonic() + seconds
    while (alive := [each for each in processes if _runs(each)]) and monotonic() < ends:
        sleep(0.1)
    return alive


def resident(processes: Sequence[psutil.Process]) -> int:
    """Bytes of memory that they hold."""
    return sum(int(each.memory_info().rss) for each in processes)


def mapped_shared_memory(processes: Sequence[psutil.Process]) -> set[Path]:
    """Files of shared memory that these have mapped, and that have a name: theirs alone, also where
    other servers run."""
    mapped = {Path(row.path) for each in processes for row in each.memory_maps()}
    return {path for path in mapped if SHARED_MEMORY in path.parents and path.exists()}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
