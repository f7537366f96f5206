"""A task in a process for each rank, all of which are gone when its time is up.

The time of a task begins when all ranks have imported its module, for which they have another one.

Each process leads a session of its own, so that its children go with it; it writes its answer as
JSON into a folder of its own and has its output there, so that no pipe fills up. A process that
can't even be killed, as one that hangs in a driver, is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

_POLL = 0.02
_GRACE = 2.0
"""Seconds that the other ranks have to answer when one has failed."""
_KILLED = 5.0
_SAID_LINES = 8
BEGIN = 300.0
"""Seconds that all ranks have to begin: imports of a busy machine take a minute."""
NONE: Mapping[str, str] = MappingProxyType({})
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from glmc_runtime.command.rank_worker import main; main(sys.argv[1])"
)


@dataclass(frozen=True)
class Ended:
    """``answers`` by rank; ``problem`` says what kept the others from answering, '' where all
    have; ``said`` is the end of the output of the rank that it is about."""

    answers: Mapping[int, Any]
    problem: str = ""
    said: tuple[str, ...] = ()


def run_ranks(
    task: str,
    size: int,
    limit: float,
    variables: Mapping[str, str] = NONE,
    begin: float = BEGIN,
    **settings: Any,
) -> Ended:
    """Call the function ``task`` (``module:name``) with rank, size, folder and ``settings`` in
    ``size`` processes, which have more ``variables`` than this one.

    All have ended when this returns: ``begin`` seconds at most after their start where one has not
    imported its module by then, ``limit`` seconds after the last one has, but for killing them.
    """
    with tempfile.TemporaryDirectory(prefix="glmc-ranks-") as folder:
        place = Path(folder)
        processes: list[subprocess.Popen[bytes]] = []
        given = {**os.environ, **variables}
        try:
            for rank in range(size):
                own = rank_environment(given, rank, size)
                processes.append(_start(task, rank, size, place, settings, own))
            problem, about = _wait(processes, place, begin, limit)
        finally:
            stuck = _end(processes)
        answers = {rank: _answer(place, rank) for rank in range(size)}
        known = {rank: answer for rank, answer in answers.items() if answer is not None}
        if stuck:
            names = ", ".join(map(str, stuck))
            also = f"process {names} can't be killed: it is in a driver"
            problem = f"{problem}; {also}" if problem else also
        return Ended(known, problem, _said(place, about) if problem else ())


def _start(
    task: str,
    rank: int,
    size: int,
    place: Path,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    asked = {"task": task, "rank": rank, "size": size, "folder": str(place), "parent": os.getpid()}
    words = json.dumps({**asked, "settings": dict(settings)})
    with (place / f"output-{rank}").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND, words, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def rank_environment(given: Mapping[str, str], rank: int, size: int) -> dict[str, str]:
    """Variables of a rank: one thread, gloo on this host alone, its place among the ranks."""
    usual = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    return {**usual, **given, **place}


def _wait(
    processes: list[subprocess.Popen[bytes]], place: Path, begin: float, limit: float
) -> tuple[str, int]:
    """Until all have ended, one has failed, or the time is up; what is wrong ('' for nothing) and
    the first rank that it is about."""
    end, begun = time.monotonic() + begin, False
    while True:
        absent = [rank for rank in range(len(processes)) if not (place / f"begun-{rank}").exists()]
        if not absent and not begun:
            end, begun = time.monotonic() + limit, True
        states = [process.poll() for process in processes]
        failed = [rank for rank, state in enumerate(states) if state not in (None, 0)]
        if failed:
            _settle(processes, min(end, time.monotonic() + _GRACE))
            return f"rank {failed[0]} {_how(states[failed[0]])}", failed[0]
        silent = [rank for rank in range(len(states)) if _answer(place, rank) is None]
        if all(state == 0 for state in states):
            return (f"rank {silent[0]} ended without an answer", silent[0]) if silent else ("", 0)
        if time.monotonic() >= end and not begun:
            names = ", ".join(map(str, absent))
            return f"not begun after {begin:g} s: rank {names} still imports", absent[0]
        if time.monotonic() >= end:
            late = silent or [rank for rank, state in enumerate(states) if state is None]
            names = ", ".join(map(str, late))
            return f"timed out after {limit:g} s: no answer of rank {names}", late[0]
        time.sleep(_POLL)


def _settle(processes: list[subprocess.Popen[bytes]], end: float) -> None:
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(_POLL)


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        known = {each.value: each.name for each in signal.Signals}
        return f"was ended by {known.get(-status, f'signal {-status}')}"
    return f"ended with status {status}"


def _end(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Kill what is left of each session; ids of processes that do not go."""
    stuck = []
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        try:
            process.wait(_KILLED)
        except subprocess.TimeoutExpired:
            stuck.append(process.pid)
    return stuck


def _answer(place: Path, rank: int) -> Any:
    try:
        return json.loads((place / f"answer-{rank}").read_bytes())
    except OSError:
        return None


def _said(place: Path, rank: int) -> tuple[str, ...]:
    """The last lines of a rank's output."""
    try:
        text = (place / f"output-{rank}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-_SAID_LINES:]
