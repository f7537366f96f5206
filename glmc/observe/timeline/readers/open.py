"""Opens a profiler's file by what is in it, whatever its name."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.places import with_places
from glmc.observe.timeline.readers.chrome import chrome_trace
from glmc.observe.timeline.readers.nsys_sqlite import MAGIC, read_nsys_sqlite
from glmc.observe.timeline.readers.nsys_stats import is_nsys_stats, read_nsys_stats
from glmc.observe.timeline.readers.ours import is_ours, read_ours
from glmc.observe.timeline.readers.torch_profiler import is_torch_profiler, read_torch_profiler
from glmc.observe.timeline.readers.xprofiler import read_xprofiler
from glmc.observe.timeline.readers.xpurt_log import MARK, read_xpurt_log
from glmc.observe.timeline.steps import step_kinds
from glmc.observe.timeline.table import Timeline
from glmc.plain_file import open_plain, read_plain

LARGEST = 4 << 30
"""Bytes of a file, and of what is packed in it."""
_GZIP = b"\x1f\x8b"
_JSON = (b"{", b"[")
KINDS = (
    "a trace of glmc, torch.profiler, vLLM, SGLang or XProfiler, a log of XPURT_PROF, or what nsys "
    "exports as sqlite or prints as csv"
)


def open_timeline(path: Path, label: str = "") -> Timeline:
    """The file as a table, with steps, layers, and kinds of ops by place.

    Raises UsageError for a file that can't be read, that is no profiler's or has no events.
    """
    made = _read(label or str(path), path)
    if not step_kinds(made):
        raise UsageError("no work of a device is in the file", place=str(path), expected=KINDS)
    return with_places(with_layers(made))


def _read(label: str, path: Path) -> Timeline:
    if _begins(path, len(MAGIC)) == MAGIC:
        return read_nsys_sqlite(label, path)
    content = _content(path)
    if content.lstrip()[:1] not in _JSON:
        return _of_text(label, path, content.decode("utf-8", errors="replace"))
    trace = chrome_trace(_json(path, content))
    if trace is None:
        raise _unknown(path)
    if is_ours(trace):
        return read_ours(label, trace)
    return (read_torch_profiler if is_torch_profiler(trace) else read_xprofiler)(label, trace)


def _of_text(label: str, path: Path, text: str) -> Timeline:
    if MARK in text:
        return read_xpurt_log(label, text)
    if is_nsys_stats(text):
        return read_nsys_stats(label, text)
    raise _unknown(path)


def _unknown(path: Path) -> UsageError:
    report = path.suffix == ".nsys-rep"
    return UsageError(
        "the file is of no profiler that is known, or has no events",
        place=str(path),
        expected=KINDS,
        remedy="nsys export --type sqlite FILE" if report else "docs/timeline.md says which files",
    )


def _begins(path: Path, count: int) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(count) or b""
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the file can't be read: {error.strerror or error}",
        place=str(path),
        expected=KINDS,
        remedy="name a profiler's file",
    )


def _content(path: Path) -> bytes:
    try:
        content = read_plain(path, LARGEST)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(path) as packed:
            unpacked = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"the file can't be unpacked: {error}", place=str(path), remedy="copy it once more"
        ) from error
    if len(unpacked) > LARGEST:
        raise UsageError(
            "the file is larger than can be read",
            place=str(path),
            expected=f"at most {LARGEST:,} bytes",
            remedy="record fewer steps",
        )
    return unpacked


def _json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the file is no JSON",
            place=str(path),
            found=str(error)[:200],
            remedy="record it once more: a profiler that was killed leaves half a file",
        ) from error
