"""Put a finished directory in the place of another one, in one step."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import warnings
from glob import escape
from pathlib import Path

from glmc.artifact.ending import held_back
from glmc.artifact.partial import remove
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import read_manifest
from glmc_runtime.format.manifest import FORMAT

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def is_artifact(path: Path) -> bool:
    """True for a directory with the manifest of a glmc artifact, of whatever version."""
    try:
        data = json.loads(read_manifest(path).decode("utf-8"))
    except (ArtifactError, OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def put_in_place(finished: Path, path: Path) -> None:
    """Rename ``finished`` to ``path``; what was there is removed after it has been swapped out.

    A reader sees the old directory or the new one. Where the system can't exchange two names
    (anything but Linux) there is a moment with neither, and the old one comes back on failure.
    Raises OSError.
    """
    if not path.exists() or not any(path.iterdir()):
        os.rename(finished, path)  # replaces an empty directory
        sync_directory(path.parent)
        return
    if _exchange(finished, path):
        old = finished
    else:
        # Not named like a partial directory: after a crash the next write would remove it.
        old = path.with_name(f"{_replaced(path)}{os.getpid()}")
        with held_back():
            os.rename(path, old)
            try:
                os.rename(finished, path)
            except BaseException:
                os.rename(old, path)
                raise
    sync_directory(path.parent)
    # The new artifact is in place: failing to remove the old one must not fail the compile.
    remove(old)
    for left in {*path.parent.glob(f"{escape(_replaced(path))}*")} - {old}:
        warnings.warn(
            f"glmc: {left} is an artifact that a compile was replacing when it was ended: it does "
            f"not load under this name, and {path} is newer",
            stacklevel=2,
        )


def _replaced(path: Path) -> str:
    return f".{path.name}.replaced-"


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or the file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    result = library.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    return bool(result == 0)
