"""Opens a profiler's file by what is in it, whatever its name."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.places import with_places
from glmc.observe.timeline.readers.chrome import chrome_trace, event_count
from glmc.observe.timeline.readers.limits import LARGEST, Limits
from glmc.observe.timeline.readers.nsys_sqlite import MAGIC, read_nsys_sqlite
from glmc.observe.timeline.readers.nsys_stats import is_nsys_stats, read_nsys_stats
from glmc.observe.timeline.readers.ours import is_ours, read_ours
from glmc.observe.timeline.readers.torch_profiler import (
    NOTHING_KEPT,
    TORCH_PROFILER,
    is_torch_profiler,
    read_torch_profiler,
)
from glmc.observe.timeline.readers.unknown import (
    HDF5,
    KINDS,
    json_found,
    text_found,
    unknown_file,
)
from glmc.observe.timeline.readers.xprofiler import read_xprofiler
from glmc.observe.timeline.readers.xpurt_log import MARK, read_xpurt_log
from glmc.observe.timeline.steps import step_kinds
from glmc.observe.timeline.table import Timeline
from glmc.plain_file import open_plain, read_plain

_GZIP = b"\x1f\x8b"
_JSON = re.compile(rb"\s*(\{|\[\s*[\[{\]])")
"""How a document begins; a line of a log may begin with a bracket, too."""


def open_timeline(path: Path, label: str = "") -> Timeline:
    """The file as a table, with steps, layers, and kinds of ops by place.

    Raises UsageError for a file that can't be read, that is no profiler's or has no events.
    """
    made = _read(label or str(path), path)
    if not step_kinds(made):
        of_torch = made.facts.source == TORCH_PROFILER
        raise UsageError(
            "no work of a device is in the file",
            place=str(path),
            expected="kernels, or operations of a host",
            found=f"{made.facts.source}, {len(made.events)} other events",
            remedy=NOTHING_KEPT if of_torch else "record it once more, while the model runs",
        )
    return with_places(with_layers(made))


def _read(label: str, path: Path) -> Timeline:
    if _begins(path, len(MAGIC)) == MAGIC:
        return read_nsys_sqlite(label, path)
    if _begins(path, len(HDF5)) == HDF5:
        raise unknown_file(path, "an HDF5 file, as records of values are", record=True)
    content, limits = _content(path)
    if _JSON.match(content) is None:
        limits.require_lines(path, content)
        return _of_text(label, path, content, limits)
    limits.require_values(path, content)
    document = _json(path, content)
    limits.require_events(path, event_count(document))
    trace = chrome_trace(document)
    if trace is None:
        raise unknown_file(path, json_found(document))
    if is_ours(trace):
        return read_ours(label, trace)
    return (read_torch_profiler if is_torch_profiler(trace) else read_xprofiler)(label, trace)


def _of_text(label: str, path: Path, content: bytes, limits: Limits) -> Timeline:
    text = content.decode("utf-8", errors="replace")
    if MARK in text:
        limits.require_events(path, text.count(MARK))
        return read_xpurt_log(label, text)
    if is_nsys_stats(text):
        limits.require_events(path, text.count("\n"))
        return read_nsys_stats(label, text)
    raise unknown_file(path, text_found(content))


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


def _content(path: Path) -> tuple[bytes, Limits]:
    """The bytes of a file, unpacked, and what a file of its size may come to."""
    try:
        content = read_plain(path, LARGEST)
    except OSError as error:
        raise _unreadable(path, error) from error
    limits = Limits.of(len(content))
    if not content.startswith(_GZIP):
        return content, limits
    try:
        with gzip.open(BytesIO(content)) as packed:
            unpacked = packed.read(limits.unpacked + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"the file can't be unpacked: {error}", place=str(path), remedy="copy it once more"
        ) from error
    limits.require_bytes(path, len(unpacked))
    return unpacked, limits


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
