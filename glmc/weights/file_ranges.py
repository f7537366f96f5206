"""Bytes of weight files: read into memory, or copied to another file without passing through it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from glmc.errors import CheckpointError
from glmc.plain_file import open_plain
from glmc.weights.source import FileRange

# The kernel copies so much at a time: a Ctrl-C and a progress bar wait for no more.
_COPIED = 16 << 20
# Read at a time where it can't: what fits into a cache of the processor is not fetched twice.
_PIECE = 1 << 20
_OF_THE_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_range(range_: FileRange, memory: memoryview) -> None:
    """Fill ``memory``, of the size of the range; raises :class:`CheckpointError`."""
    with _opened(range_) as descriptor:
        _read(descriptor, range_, 0, memory)


def pieces_of(range_: FileRange, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes one after the other in parts of ``buffer``; raises :class:`CheckpointError`."""
    with _opened(range_) as descriptor:
        for begin in range(0, range_.size, len(buffer)):
            part = buffer[: range_.size - begin]
            _read(descriptor, range_, begin, part)
            yield part


def copy_range(range_: FileRange, target: int) -> Iterator[int]:
    """Append the bytes to the file of the descriptor ``target``; yields how many have been copied
    each time. Raises :class:`CheckpointError` for the range, and OSError for the target."""
    done = 0
    with _opened(range_) as descriptor:
        while done < range_.size:
            count = _copied(descriptor, target, range_, done)
            if not count:
                break
            done += count
            yield count
        buffer = memoryview(bytearray(min(_PIECE, range_.size - done)))
        while done < range_.size:
            part = buffer[: range_.size - done]
            _read(descriptor, range_, done, part)
            write_all(target, part)
            done += len(part)
            yield len(part)


def write_all(target: int, data: bytes | memoryview) -> None:
    """Append the bytes to the file of a descriptor; raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]


def _copied(descriptor: int, target: int, range_: FileRange, done: int) -> int:
    """Bytes that the kernel has copied by itself; none where it can't between these file systems,
    and where the source fails, which reading then shows apart from a failure of the target."""
    if not hasattr(os, "copy_file_range"):
        return 0
    size = min(_COPIED, range_.size - done)
    try:
        return os.copy_file_range(descriptor, target, size, offset_src=range_.begin + done)
    except OSError as error:
        if error.errno in _OF_THE_TARGET:
            raise
        return 0


@contextmanager
def _opened(range_: FileRange) -> Iterator[int]:
    try:
        file = open_plain(range_.path)
    except OSError as error:
        raise _unreadable(range_, error) from error
    with file:
        yield file.fileno()


def _read(descriptor: int, range_: FileRange, offset: int, memory: memoryview) -> None:
    done = 0
    while done < len(memory):
        try:
            count = os.preadv(descriptor, [memory[done:]], range_.begin + offset + done)
        except OSError as error:
            raise _unreadable(range_, error) from error
        if not count:
            raise CheckpointError(
                f"the file ends inside tensor '{range_.tensor}'",
                place=str(range_.path),
                remedy="the file changed while it was read: download it again",
            )
        done += count


def _unreadable(range_: FileRange, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"a weight file can't be read: {error.strerror or error}",
        place=str(range_.path),
        remedy="check the disk and the file's permissions",
    )
