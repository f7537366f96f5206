"""Shared memory that nobody uses any more: a collective that meets such a segment may hang.

Segments are told and never removed. One is stale where no process has it open or mapped, and none
that its name tells of is alive. Processes of other users can't be looked into without their
rights: what belongs to another user is left out then.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glmc_runtime.command.units import bytes_text
from glmc_runtime.doctor.ranks.facts import SEGMENTS
from glmc_runtime.doctor.ranks.result import PASS, SKIPPED, WARNING, Result

FOLDER = Path("/dev/shm")
_SHOWN = 8
_SETTLED = 60.0
"""Seconds: a younger segment may be about to be opened."""


@dataclass(frozen=True)
class Segment:
    """A file of shared memory; ``owner`` is whose name it has, ``process`` the one that its name
    tells of, ``age`` in seconds since it was last written."""

    path: Path
    owner: str
    size: int
    age: float
    process: int | None


def segments(folder: Path = FOLDER, processes: Path = Path("/proc")) -> Result:
    """Those of ``folder`` that no living process uses."""
    if not folder.is_dir():
        return Result("segments", SKIPPED, (f"{folder} is not there",))
    known = list(known_segments(folder))
    used = used_files(folder, processes)
    stale = [
        each
        for each in known
        if each.path.name not in used
        and each.age > _SETTLED
        and (each.process is None or not (processes / str(each.process)).exists())
    ]
    values = {"stale": [str(each.path) for each in stale], "known": len(known)}
    if not stale:
        line = f"{len(known)} known in {folder}, none of them stale"
        return Result("segments", PASS, (line,), values)
    lines = [f"{len(stale)} in {folder} belong to no process; if none starts, remove them:"]
    lines += [
        f"  rm {each.path}  ({each.owner}, {bytes_text(each.size)}, {each.age / 3600:.1f} h old)"
        for each in stale[:_SHOWN]
    ]
    if len(stale) > _SHOWN:
        lines.append(f"  and {len(stale) - _SHOWN} more (--json lists all)")
    return Result("segments", WARNING, tuple(lines), values)


def known_segments(folder: Path) -> Iterator[Segment]:
    """Files whose names are those of collectives, in the order of their names."""
    mine = os.getuid()
    for path in sorted(folder.iterdir()):
        for owner, pattern in SEGMENTS:
            match = re.match(pattern, path.name)
            if match is None:
                continue
            try:
                status = path.lstat()
            except OSError:  # gone since
                break
            if mine in (0, status.st_uid):
                named = match.groupdict().get("pid")
                process = None if named is None else int(named)
                age = time.time() - status.st_mtime
                yield Segment(path, owner, status.st_size, age, process)
            break


def used_files(folder: Path, processes: Path) -> set[str]:
    """Names of files of ``folder`` that a process has open or mapped, as far as it may be seen."""
    found: set[str] = set()
    prefix = f"{folder}/"
    for process in processes.glob("[0-9]*"):
        try:
            maps = (process / "maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            maps = ""
        for line in maps.splitlines():
            _, mark, name = line.partition(prefix)
            if mark:
                found.add(name.removesuffix(" (deleted)"))
        try:
            opened = list((process / "fd").iterdir())
        except OSError:
            opened = []
        for descriptor in opened:
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith(prefix):
                found.add(target.removeprefix(prefix).removesuffix(" (deleted)"))
    return found
