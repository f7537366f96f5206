"""What an HDF5 record says of itself: the attributes of its root."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc_runtime.errors import RecordError
from glmc_runtime.record.packages import import_h5py

TOOL = "glmc"
JSON_FACTS = ("prompts", "tokens", "left_out")


@dataclass(frozen=True)
class RecordedRun:
    """``prompts`` are token ids; ``tokens`` those that each sequence's decode steps computed."""

    prompts: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as h5py opens it; raises :class:`RecordError` for what is none, there or within."""
    h5py = import_h5py()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecordError("a record is a plain file", place=str(path))
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        # What libhdf5 meets in a damaged file comes as any of them.
        raise RecordError(
            "the record can't be read",
            place=str(path),
            expected="an HDF5 file, whole",
            found=getattr(error, "strerror", None) or str(error).strip("'\""),
        ) from error


def plain_attributes(attributes: Any) -> dict[str, Any]:
    """Attributes as Python's own values; those that are none of its kinds are left out."""
    found: dict[str, Any] = {}
    for name in attributes:
        try:
            value = attributes[name]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            continue  # of a type that numpy has not: another tool's, which nothing here asks for
        value = value.tolist() if hasattr(value, "tolist") else value
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        if isinstance(value, (str, int, float, bool, list)):
            found[str(name)] = value
    return found


def facts_of_file(path: Path) -> dict[str, Any]:
    """The attributes of the root; raises :class:`RecordError`."""
    with opened(path) as file:
        return root_facts(plain_attributes(file.attrs), path)


def root_facts(attributes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The attributes of a root, those of ours that are JSON parsed."""
    facts = dict(attributes)
    if facts.get("tool") == TOOL:
        for name in JSON_FACTS:
            if name in facts:
                facts[name] = _parsed(name, facts[name], path)
    return facts


def recorded_run(path: Path) -> RecordedRun:
    """The prompts and tokens of a record of ours; raises :class:`RecordError`."""
    facts = facts_of_file(path)
    if "prompts" not in facts or "tokens" not in facts:
        raise RecordError(
            "the record does not say which tokens it was made of",
            place=str(path),
            expected="a record that glmc wrote",
            remedy="pass --prompt or --ids",
        )
    prompts, tokens = (_sequences(name, facts[name], path) for name in ("prompts", "tokens"))
    paired = len(prompts) == len(tokens) and len(set(map(len, tokens))) == 1
    if not paired or not all(prompts):
        raise RecordError("the record's prompts and tokens don't belong together", place=str(path))
    return RecordedRun(prompts, tokens)


def _parsed(name: str, text: Any, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(
            f"the attribute '{name}' is no JSON", place=str(path), found=str(error)
        ) from error


def _sequences(name: str, value: Any, path: Path) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(
        isinstance(each, list) and all(type(token) is int for token in each) for each in value
    ):
        raise RecordError(
            f"the attribute '{name}' has another form",
            place=str(path),
            expected="a list of token ids for each sequence",
        )
    return tuple(tuple(each) for each in value)
