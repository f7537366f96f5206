"""What a disk that refuses to take an artifact lacks: bytes, inodes, a quota, a permission."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from glmc.errors import PackError

_ELSEWHERE = "or choose an output path on another disk"


def disk_error(error: OSError, path: Path, needed: int) -> PackError:
    """The error of a write below ``path``, in words that say what to do about it.

    To be asked while what was written is still there: once it is removed, the disk has room again.
    """
    place, weights = str(error.filename or path), f"{needed} bytes of weights"
    free, inodes = _free(path)
    if error.errno == errno.EDQUOT:
        return PackError(
            "the quota of this disk is used up",
            place=place,
            expected=weights,
            found=f"{free}, for those with quota left",
            remedy=f"remove files of yours, {_ELSEWHERE}",
        )
    if error.errno == errno.ENOSPC and inodes == 0:
        return PackError(
            "the disk has no inodes left",
            place=place,
            expected="an inode for each file and folder",
            found=f"none, with {free}",
            remedy=f"remove files from it, whatever their size, {_ELSEWHERE}",
        )
    if error.errno == errno.ENOSPC:
        return PackError(
            "the disk is full",
            place=place,
            expected=weights,
            found=free,
            remedy=f"free some space, {_ELSEWHERE}",
        )
    return PackError(
        f"the artifact can't be written: {error.strerror}",
        place=place,
        expected="a directory that can be written to",
        found=str(error),
        remedy="check the path and its permissions",
    )


def _free(path: Path) -> tuple[str, int | None]:
    """Free bytes in words, and free inodes; None where the file system does not count them."""
    for folder in path.absolute().parents:
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        inodes = found.f_favail if found.f_files else None
        return f"{found.f_bavail * found.f_frsize} bytes free", inodes
    return "unknown", None
