"""Shortages of a disk that refuses to take an artifact: bytes, inodes, a quota, a permission."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from glmc.errors import PackError

_FEW = 8
_ELSEWHERE = "or choose an output path on another disk"


def disk_error(error: OSError, path: Path, needed: int) -> PackError:
    """The error of a write below ``path``, in words that say what to do about it.

    To be asked while what was written is still there: once it is removed, the disk has room again.
    """
    place, weights = str(error.filename or path), f"{needed} bytes of weights"
    room, inodes = _free(path)
    free = "unknown" if room is None else f"{room} bytes free"
    # A few are free again where a folder was removed already that could not be filled.
    few = inodes is not None and inodes < _FEW
    no_inodes = inodes == 0 or (few and room is not None and room > needed)
    if error.errno == errno.EDQUOT:
        return PackError(
            "the quota of this disk is used up",
            place=place,
            expected=weights,
            found=f"{free}, for those with quota left",
            remedy=f"remove files of yours, {_ELSEWHERE}",
        )
    if error.errno == errno.ENOSPC and no_inodes:
        return PackError(
            "the disk has no inodes left",
            place=place,
            expected="an inode for each file and folder",
            found=f"{inodes} left, with {free}",
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


def _free(path: Path) -> tuple[int | None, int | None]:
    """Free bytes and free inodes; None where they are not known, or not counted."""
    for folder in path.absolute().parents:
        try:
            status = os.statvfs(folder)
        except OSError:
            continue
        inodes = status.f_favail if status.f_files else None
        return status.f_bavail * status.f_frsize, inodes
    return None, None
