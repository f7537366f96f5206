"""The directory in which an artifact grows: removed on failure, recognised when left behind.

The writer holds a lock on it. A process that is killed loses its lock, so the next write to the
same path can tell what is left over from what is being written.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


@contextmanager
def partial_directory(path: Path) -> Iterator[Path]:
    """A new directory beside ``path``; whatever is in it at the end of the block is removed.

    On success the caller has renamed it. Directories of earlier, killed writes to ``path`` are
    removed first. Raises OSError.
    """
    prefix = f".{path.name}.partial-"
    _remove_left_over(path.parent, prefix)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    lock = os.open(partial, os.O_RDONLY)
    try:
        _try_lock(lock)
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _remove_left_over(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{escape(prefix)}*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _try_lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock without waiting; False when another holds it or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
