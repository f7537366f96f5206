"""Bytes of weight files, read into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glmc.errors import CheckpointError
from glmc.plain_file import open_plain
from glmc.weights.source import FileRange


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


def pieces_into(range_: FileRange, room: Callable[[], memoryview]) -> Iterator[int]:
    """Read the bytes one after the other into the memory that ``room`` gives each time; yields how
    many are there. Raises :class:`CheckpointError`."""
    done = 0
    with _opened(range_) as descriptor:
        while done < range_.size:
            part = room()[: range_.size - done]
            _read(descriptor, range_, done, part)
            done += len(part)
            yield len(part)


def write_all(target: int, data: bytes | memoryview) -> None:
    """Append the bytes to the file of a descriptor; raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]


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
