"""The error for a file of no profiler that is known: what it is instead, as far as that is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmc.errors import UsageError

KINDS = (
    "a trace of glmc, torch.profiler, vLLM, SGLang or XProfiler, a log of XPURT_PROF, or what nsys "
    "exports as sqlite or prints as csv"
)
HDF5 = b"\x89HDF\r\n\x1a\n"
_LIST = "docs/timeline.md says which files"
_SHOWN, _KEYS = 60, 5


def unknown_file(path: Path, found: str, *, record: bool = False) -> UsageError:
    """``found`` says what it is; ``record`` whether it may be a record of values."""
    if path.suffix == ".nsys-rep":
        remedy = "nsys export --type sqlite FILE"
    elif record:
        remedy = f"glmc align A B compares records of values; {_LIST}"
    else:
        remedy = _LIST
    return UsageError(
        "the file is of no profiler that is known, or has no events",
        place=str(path),
        expected=KINDS,
        found=found,
        remedy=remedy,
    )


def text_found(content: bytes) -> str:
    """Of a file that is neither JSON nor a database."""
    begin = content[:_SHOWN].split(b"\n")[0].rstrip()
    if not content:
        return "an empty file"
    if not begin.decode("utf-8", errors="replace").isprintable() or b"\xff" in begin:
        return f"a binary file that begins with {content[:8].hex(' ')}"
    return f"a text that begins with {begin.decode('utf-8', errors='replace')!r}"


def json_found(document: Any) -> str:
    """Of a JSON document without events."""
    if not isinstance(document, dict):
        return "JSON, a list without events"
    if "traceEvents" in document:
        return "JSON whose traceEvents are empty"
    keys = ", ".join(repr(str(key)[:_SHOWN]) for key in list(document)[:_KEYS])
    return f"JSON with {keys}" if keys else "JSON, an empty object"
