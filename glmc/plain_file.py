"""Files of others that are read whole: nothing to wait for, and nothing without an end.

A checkpoint may consist of links, as a cache of downloads does; what they lead to must be a file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

# A tokenizer of the family takes 20 MiB, an index of 92 layers of experts 10 MiB.
LARGEST = 256 << 20


def open_plain(path: Path) -> FileIO:
    """A regular file for reading; raises OSError for a pipe, which would be waited for, a device
    or whatever else is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def read_plain(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file; raises OSError, also for one of more than ``largest`` bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest} bytes", str(path))
        pieces = []
        while size and (piece := file.read(size)):
            pieces.append(piece)
            size -= len(piece)
    return b"".join(pieces)


def begins_with(path: Path, mark: str, within: int) -> bool:
    """Whether a file has a mark among its first bytes, and so is one that we may write over; False
    for what is no plain file. Raises OSError for one that can't be read."""
    if not path.is_file():
        return False
    with open_plain(path) as file:
        return mark.encode() in file.read(within)
