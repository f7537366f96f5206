"""The directory in which an artifact grows: removed on failure, recognised when left behind.

The writer holds a lock on it. A process that is killed loses its lock, so the next write to the
same path can tell what is left over from what is being written. A signal that ends the process,
and that the program handles in no way of its own, removes the directory first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glmc.artifact.ending import held_back, removed_when_ended

_ATTEMPTS = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def partial_directory(path: Path) -> Iterator[Path]:
    """A new directory beside ``path``; whatever is in it at the end of the block is removed.

    On success the caller has renamed it. Directories of earlier, killed writes to ``path`` are
    removed first. Raises OSError.
    """
    prefix = f".{path.name}.partial-"
    _remove_left_over(path.parent, prefix)
    with removed_when_ended() as remember:
        partial, lock = _locked(path.parent, prefix, remember)
        try:
            yield partial
        finally:
            with held_back():
                remove(partial)
                os.close(lock)


def _locked(parent: Path, prefix: str, remember: Callable[[Path], None]) -> tuple[Path, int]:
    """A new directory and a descriptor that holds the lock on it.

    Another write may find it before it is locked, take it for a left-over and remove it: then the
    next one is made.
    """
    for _ in range(_ATTEMPTS):
        with held_back():
            partial = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            remember(partial)
        try:
            lock = os.open(partial, _FOLDER)
        except FileNotFoundError:
            continue
        try:
            is_ours = _try_lock(lock) or not _is_locked(lock)  # else there are no locks here
            if is_ours and _is_at(partial, lock):
                _make_usual(partial)
                return partial, lock
        except BaseException:
            os.close(lock)
            remove(partial)
            raise
        os.close(lock)
    raise OSError(errno.EAGAIN, "another compile removes what this one makes", str(parent))


def _remove_left_over(parent: Path, prefix: str) -> None:
    """Remove the folders of earlier writes. What is no folder, another user's, or gone meanwhile is
    none of our business."""
    with os.scandir(parent) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for path in paths:
        try:
            descriptor = os.open(path, _FOLDER)
        except OSError:
            continue
        try:
            # Its writer may have renamed it since it was opened.
            if _try_lock(descriptor) and _is_at(path, descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder if it is there; a warning says so where that can't be done."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        warnings.warn(
            f"glmc: {path} is left over and can't be removed: it is no artifact, and takes room",
            stacklevel=1,  # twice for one folder is said once
        )


def _try_lock(descriptor: int) -> bool:
    """Lock without waiting; False when another holds it or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    """Whether another holds the lock; False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _make_usual(partial: Path) -> None:
    """Give the folder, which is private until it is locked, the mode that a new one has here. A
    folder in it shows which: to ask for the umask is to change it for all threads."""
    shown = partial / "mode"
    shown.mkdir()
    partial.chmod(stat.S_IMODE(shown.stat().st_mode))
    shown.rmdir()
