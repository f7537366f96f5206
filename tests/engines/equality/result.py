"""What a process of an engine is asked for and answers; both are written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Subject:
    """A model that is served: its checkpoint, the artifact for it, and what it is asked."""

    name: str
    checkpoint: str
    artifact: str
    texts: list[list[int]]
    tokens: int


@dataclass(frozen=True)
class Result:
    """Tokens for texts that were sent at once, and for the same ones sent one after the other.

    ``engine`` has what the engine itself has counted: preemptions, cached tokens, steps where it
    counts those. ``ours`` is what compiled plans have counted, empty where none served.
    """

    name: str
    at_once: list[list[int]]
    staggered: list[list[int]]
    engine: dict[str, int] = field(default_factory=dict)
    ours: dict[str, int] = field(default_factory=dict)
    error: str = ""


def write(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows]))


def read_subjects(path: Path) -> list[Subject]:
    return [Subject(**row) for row in json.loads(path.read_text())]


def read_results(path: Path) -> list[Result]:
    return [Result(**row) for row in json.loads(path.read_text())]
