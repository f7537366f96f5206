"""What is known of each release, as data that is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

FILE = Path(__file__).with_name("releases.json")


@dataclass(frozen=True)
class Surface:
    """How a release compares with the rows of an adapter.

    ``rows`` tells which rows they were. ``lacking`` and ``optional`` are names with reasons, and
    ``changed`` what became of names since the release ``against``.
    """

    rows: str
    names: int
    lacking: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    against: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ran:
    """Tests of an adapter inside the release, and the names of those that failed, with causes.

    ``files`` are those that were chosen, none where all ran; ``beside`` are versions of what else
    the tests ran with.
    """

    passed: int
    skipped: int = 0
    failed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One release."""

    engine: str
    version: str
    surface: Surface | None = None
    ran: Ran | None = None

    @property
    def order(self) -> tuple[str, Version]:
        return self.engine, Version(self.version)


def read_records(file: Path = FILE) -> list[Record]:
    """All records, oldest release first."""
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return sorted((_record(row) for row in rows), key=lambda record: record.order)


def write_records(records: Iterable[Record], file: Path = FILE) -> None:
    """One file of JSON, in the order of the releases."""
    rows = [asdict(record) for record in sorted(records, key=lambda record: record.order)]
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def merged(records: Iterable[Record], new: Record) -> list[Record]:
    """The records with a newer one, which keeps what it does not tell anew."""
    kept = [each for each in records if each.order != new.order]
    old = next((each for each in records if each.order == new.order), new)
    return [*kept, replace(old, surface=new.surface or old.surface, ran=new.ran or old.ran)]


def _record(row: dict[str, Any]) -> Record:
    surface, ran = row["surface"], row["ran"]
    return Record(
        row["engine"],
        row["version"],
        None if surface is None else Surface(**_tuples(surface)),
        None if ran is None else Ran(**_tuples(ran)),
    )


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
