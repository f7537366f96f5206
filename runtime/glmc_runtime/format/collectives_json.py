"""``collectives.json`` as text: a table of algorithms written, and read with care.

The file comes from elsewhere: what it holds is checked whole before anything is chosen by it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.algorithms import (
    ALGORITHMS,
    ANY_ORDER,
    DTYPES,
    MEMORY,
    MESSAGES,
    NUMERICS,
    PEERS,
    Link,
    of_class,
)
from glmc_runtime.format.collectives import (
    COLLECTIVES,
    GIVEN,
    MEASURED,
    AlgorithmTable,
    Band,
    Curve,
    GroupKey,
    Origin,
    TableEntry,
)
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.records import misfit

FORMAT = "glmc-collectives"
SCHEMA_VERSION = 1
LARGEST_FILE = 1 << 20
_MOST_ENTRIES = 1024
_MOST_POINTS = 256


def table_to_json(table: AlgorithmTable) -> dict[str, Any]:
    """JSON data; :func:`table_from_json` reads it back to an equal value."""
    return {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(table)}


def table_to_text(table: AlgorithmTable) -> str:
    """The text of the file: the same for equal tables."""
    return json.dumps(table_to_json(table), indent=1) + "\n"


def table_digest(table: AlgorithmTable) -> str:
    """Hexadecimal sha256 of the text."""
    return hashlib.sha256(table_to_text(table).encode()).hexdigest()


def read_table(data: bytes, place: str = COLLECTIVES) -> AlgorithmTable:
    """Read the bytes of a file; raises :class:`ArtifactError`."""
    if len(data) > LARGEST_FILE:
        raise ArtifactError(
            f"{COLLECTIVES} is larger than any table",
            place=place,
            expected=f"at most {LARGEST_FILE} bytes",
            found=f"{len(data)} bytes",
        )
    return table_from_json(json_of(data, COLLECTIVES, place))


def table_from_json(data: Any) -> AlgorithmTable:
    """Read a table; raises :class:`ArtifactError` for one that is not well formed."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(
            "this is no table of collectives",
            expected=f"format '{FORMAT}'",
            found=repr(data.get("format") if isinstance(data, dict) else type(data).__name__)[:80],
            remedy="write one by 'glmc-runtime tune-collectives', or compile the model again",
        )
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            "the table of collectives has another schema version",
            expected=str(SCHEMA_VERSION),
            found=str(data.get("schema_version"))[:80],
            remedy="write it anew by this runtime's 'glmc-runtime tune-collectives'",
        )
    try:
        table = AlgorithmTable(tuple(map(_entry, data["entries"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_well_formed(repr(error)[:160]) from error
    problem = misfit(table, AlgorithmTable, "collectives") or _impossible(table)
    if problem is not None:
        raise _not_well_formed(problem)
    return table


def _entry(data: Any) -> TableEntry:
    return TableEntry(
        **{
            **data,
            "key": GroupKey(**data["key"]),
            "bands": tuple(Band(**band) for band in data["bands"]),
            "origin": Origin(**data["origin"]),
            "links": tuple(Link(**link) for link in data["links"]),
            "curves": tuple(
                Curve(one["algorithm"], tuple(one["sizes"]), tuple(one["microseconds"]))
                for one in data["curves"]
            ),
        }
    )


def _impossible(table: AlgorithmTable) -> str | None:
    """What is of the right kinds and no table all the same."""
    if len(table.entries) > _MOST_ENTRIES:
        return f"{len(table.entries)} entries are more than {_MOST_ENTRIES}"
    if len({entry.key for entry in table.entries}) != len(table.entries):
        return "two entries are for the same group"
    for number, entry in enumerate(table.entries):
        problem = _impossible_entry(entry)
        if problem is not None:
            return f"entries[{number}]: {problem}"
    return None


def _impossible_entry(entry: TableEntry) -> str | None:
    bounds = [band.below for band in entry.bands]
    finite = [below for below in bounds[:-1] if below is not None]
    if not bounds or bounds[-1] is not None or len(finite) != len(bounds) - 1:
        return "all bands but the last have a bound, and the last has none"
    if finite != sorted(set(finite)) or min(finite, default=1) < 1:
        return f"bounds are {str(finite)[:60]}, and not ascending from 1"
    if entry.numerics != ANY_ORDER and entry.numerics not in NUMERICS:
        return f"numerics is {entry.numerics[:60]!r}, and none of {', '.join(NUMERICS)}"
    allowed = of_class(entry.numerics)
    wrong = next((band for band in entry.bands if band.algorithm not in allowed), None)
    if wrong is not None:
        return f"{wrong.algorithm[:60]!r} is none of {', '.join(allowed)}"
    if entry.key.ranks < 1 or entry.key.dtype not in DTYPES or not entry.key.topology:
        return f"there is no group of {str(entry.key)[:80]}"
    if entry.origin.kind not in (GIVEN, MEASURED):
        return f"origin is {entry.origin.kind[:60]!r}, and not {GIVEN} or {MEASURED}"
    for link in entry.links:
        if link.medium not in (MESSAGES, MEMORY, PEERS) or link.latency <= 0 or link.bandwidth <= 0:
            return f"there is no link {str(link)[:80]}"
    return next(filter(None, map(_impossible_curve, entry.curves)), None)


def _impossible_curve(curve: Curve) -> str | None:
    sizes = list(curve.sizes)
    if curve.algorithm not in ALGORITHMS:
        return f"a curve is of {curve.algorithm[:60]!r}, and of none of {', '.join(ALGORITHMS)}"
    whole = 0 < len(sizes) == len(curve.microseconds) <= _MOST_POINTS
    if not whole or sizes != sorted(set(sizes)) or sizes[0] < 1 or min(curve.microseconds) <= 0:
        return f"the curve of {curve.algorithm} has no time above 0 for each of ascending sizes"
    return None


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"{COLLECTIVES} is not well formed: {problem}",
        remedy="write it anew by 'glmc-runtime tune-collectives', or compile the model again",
    )
