"""Libraries kept in a folder: whole when they are there, compared with their hash when loaded, and
only from where nobody else can put another in their place.

A kept file is the library followed by its sha256; the system's loader reads no further than
the library's own headers say. It takes a library that was cut short for a whole one, and the
process ends when it calls into what is missing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
from pathlib import Path

_LARGEST = 64 << 20  # the product in C takes 0.02 MiB
_DIGEST = hashlib.sha256().digest_size


class NotOwnError(Exception):
    """A file or folder that others may write: whoever loads it would run what they wrote."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} belongs to others or they may write it: set GLMC_CACHE to another folder"
        )


class DamagedError(Exception):
    """A kept file that is not what was kept."""


def cache_folder(name: str) -> Path:
    """A folder of the cache: in ``GLMC_CACHE``, or ``glmc`` in ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises NotOwnError, OSError, and RuntimeError where the user has no home.
    """
    named = os.environ.get("GLMC_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    above = Path(named) if named else Path(home or Path.home() / ".cache") / "glmc"
    return own_folder(above / name)


def own_folder(path: Path) -> Path:
    """``path`` without links, made where it isn't there, for nobody but its user.

    Raises NotOwnError where another user may write to it or to a folder above it, and OSError.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    folder = path.resolve(strict=True)
    require_own(folder)
    for above in folder.parents:
        status = above.stat()
        # Below a sticky folder, such as /tmp, nobody renames what belongs to somebody else.
        shared = (
            status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        )
        if shared or status.st_uid not in (0, os.getuid()):
            raise NotOwnError(above)
    return folder


def require_own(path: Path) -> None:
    """Raise NotOwnError for what belongs to another user or may be written by one."""
    _require_own(path, path.lstat())


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotOwnError(path)


def keep(library: Path, target: Path) -> None:
    """Put a copy of a library at ``target``, all of it or nothing, on the disk too; or OSError."""
    data = library.read_bytes()
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + hashlib.sha256(data).digest())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o700)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> ctypes.CDLL:
    """Load a kept library. Raises DamagedError, NotOwnError, and OSError of the system's loader."""
    data = _read(path)
    if hasattr(os, "memfd_create"):
        # Memory of our own: what happens to the file from here on concerns the next process.
        copy = os.memfd_create(path.name)
        try:
            with os.fdopen(copy, "wb", closefd=False) as file:
                file.write(data)
            # Kept open: a loader takes two libraries of one name for the same, number and all.
            return ctypes.CDLL(f"/proc/self/fd/{copy}")
        except OSError:  # no /proc, or memory that may not be executed
            os.close(copy)
    return ctypes.CDLL(str(path))


def _read(path: Path) -> bytes:
    """The library of a kept file, which is what was kept."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _DIGEST <= status.st_size <= _LARGEST:
            raise DamagedError(f"{path} is no library")
        _require_own(path, status)
        data = file.read(status.st_size)
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise DamagedError(f"{path} is not what was compiled")
    return data[:-_DIGEST]
