"""Opens a profiler's file by what is in it, whatever its name."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.readers.chrome import chrome_trace
from glmc.observe.timeline.readers.torch_profiler import is_torch_profiler, read_torch_profiler
from glmc.observe.timeline.table import Timeline
from glmc.plain_file import read_plain

LARGEST = 4 << 30
"""Bytes of a file, and of what is packed in it."""
_GZIP = b"\x1f\x8b"
KINDS = "a trace of glmc, torch.profiler, vLLM or SGLang (.json, .json.gz)"


def open_timeline(path: Path, label: str = "") -> Timeline:
    """The file as a table, with steps and layers.

    Raises UsageError for a file that can't be read, that is no profiler's or has no events.
    """
    content = _content(path)
    return with_layers(_read(label or str(path), path, content))


def _read(label: str, path: Path, content: bytes) -> Timeline:
    trace = chrome_trace(_json(path, content))
    if trace is not None and is_torch_profiler(trace):
        return read_torch_profiler(label, trace)
    raise UsageError(
        "the file is of no profiler that is known, or has no events",
        place=str(path),
        expected=KINDS,
    )


def _content(path: Path) -> bytes:
    try:
        content = read_plain(path, LARGEST)
    except OSError as error:
        raise UsageError(
            f"the file can't be read: {error.strerror or error}", place=str(path), expected=KINDS
        ) from error
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(path) as packed:
            unpacked = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"the file can't be unpacked: {error}", place=str(path)) from error
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
            "the file is no JSON", place=str(path), expected=KINDS, found=str(error)[:200]
        ) from error
