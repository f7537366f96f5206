"""``times.json``: what differs between two artifacts of one input, in the file without a hash.

Seconds of stages and passes, the date, and when the files of the checkpoint were last written. The
manifest does not list it, the runtime never reads it, and an artifact without it is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from glmc.artifact.records import record
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import TIMES, plain_file
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.records import misfit

SCHEMA_VERSION = 1
_LARGEST = 4 << 20
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassTimes:
    """Seconds of a pass, and those of them in which regions were evaluated."""

    seconds: float
    evaluation: float = 0.0


@dataclass(frozen=True)
class Times:
    """``written`` is a date in UTC as ISO 8601; ``stages`` and ``passes`` are seconds by name;
    ``modified`` has of each file that is not hashed when its bytes were last written and when
    anything of it was last changed (mtime and ctime), in nanoseconds."""

    written: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    passes: dict[str, PassTimes] = field(default_factory=dict)
    modified: dict[str, tuple[int, int]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def now() -> str:
    """The date as :class:`Times` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def times_of(
    report: Mapping[str, Any], modified: Mapping[str, tuple[int, int]] | None = None
) -> Times:
    """The times of a report, and those of the files that it was made from."""
    passes = {
        row["name"]: PassTimes(row["seconds"], row["evaluated"]["seconds"])
        for row in report["passes"]
    }
    return Times(now(), dict(report["seconds"]), passes, dict(modified or {}))


def without_times(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as it is stored: the same for the same input."""
    passes = [
        {**_timeless(row), "evaluated": _timeless(row["evaluated"])} for row in report["passes"]
    ]
    return {**_timeless(report), "passes": passes}


def with_times(report: Mapping[str, Any], times: Times | None) -> dict[str, Any]:
    """A stored report with its times; seconds that were not recorded are None."""
    if not report:
        return {}
    recorded = times or Times()
    passes = []
    for row in report["passes"]:
        taken = recorded.passes.get(row["name"])
        evaluated = {"kinds": 0, "small": 0, **row.get("evaluated", {})}
        passes.append(
            {
                **row,
                "seconds": None if taken is None else taken.seconds,
                "evaluated": {**evaluated, "seconds": None if taken is None else taken.evaluation},
            }
        )
    return {**report, "passes": passes, "seconds": recorded.stages}


def times_json(times: Times) -> dict[str, Any]:
    return asdict(times)


def read_times(root: Path) -> Times | None:
    """The times of an artifact, None where it has none; for a file of another form as well, of
    which a warning is logged: no hash stands for it, and the artifact is whole without it."""
    if not (root / TIMES).exists():
        return None
    try:
        return _read(root)
    except ArtifactError as error:
        _warn(f"{root}: {error.message}; the artifact is whole, and its times are left out")
        return None


@cache
def _warn(text: str) -> None:
    """Once in a process: a command may ask for the times more than once."""
    _LOG.warning("%s", text)


def _read(root: Path) -> Times:
    with plain_file(root, TIMES) as (descriptor, status):
        if status.st_size > _LARGEST:
            raise _unusable(root, f"it has {status.st_size} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            data = json_of(file.read(), TIMES, str(root / TIMES))
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise _unusable(root, f"it has no schema_version {SCHEMA_VERSION}")
    try:
        times: Times = record(data, Times)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(root, repr(error)) from error
    problem = misfit(times, Times, "times")
    if problem is not None:
        raise _unusable(root, problem)
    return times


def _timeless(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "seconds"}


def _unusable(root: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{TIMES} is not well formed: {problem}", place=str(root))
