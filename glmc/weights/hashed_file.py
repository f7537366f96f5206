"""A file that is hashed while it is written, by a thread that reads what has just been appended.

So the hash is of the bytes that the file has, however they came into it, and is there soon after
the last of them. The thread keeps close to the end of the file, whose pages are in memory.

What is appended is written in whole blocks. The system keeps a block that is written at once in one
large page where it can, and a processor that reads mapped weights then looks a page up once for 2
MiB of them, not for 4 KiB; ``copy_file_range`` leaves small ones.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

from torch import Tensor, uint8

from glmc.weights.file_ranges import pieces_into, write_all
from glmc.weights.flat import Data
from glmc.weights.source import FileRange

# What is appended waits for the thread when so much of it is not hashed.
_AHEAD = 64 << 20
_PIECE = 1 << 20
_BLOCK = 2 << 20  # a large page of x86-64, and of Arm with small ones of 4 KiB


@dataclass(frozen=True)
class WrittenFile:
    sha256: str
    size: int


class HashedFile:
    """A new file; raises OSError for one that is there. Leaving the ``with`` closes it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.path = path
        self._descriptor = os.open(path, flags, 0o666)
        self._size = self._hashed = 0
        self._block, self._filled = memoryview(bytearray(_BLOCK)), 0
        self._ended = self._abandoned = False
        self._digest = hashlib.sha256()
        self._error: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._follow, name=f"hash of {path.name}", daemon=True)
        self._thread.start()

    def append(self, data: bytes | Data) -> None:
        """Raises CheckpointError for a range that can't be read, and OSError."""
        if isinstance(data, FileRange):
            for count in pieces_into(data, self._room):
                self._fill(count)
            return
        plain = data.flatten().view(uint8).numpy().data if isinstance(data, Tensor) else data
        left = memoryview(plain)
        while left:
            count = min(len(left), len(self._room()))
            self._room()[:count] = left[:count]
            self._fill(count)
            left = left[count:]

    def end(self) -> None:
        """Write what is left and say that the file is whole: the thread hashes the rest and puts it
        on the disk. Raises OSError."""
        self._flush()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def written(self) -> WrittenFile:
        """Wait until a file that was ended is on the disk (fsync), and close it; raises OSError."""
        self._thread.join()
        self._close()
        self._raise()
        return WrittenFile(self._digest.hexdigest(), self._size)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _room(self) -> memoryview:
        """What the block has room for; never nothing."""
        return self._block[self._filled :]

    def _fill(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._block):
            self._flush()

    def _flush(self) -> None:
        count, self._filled = self._filled, 0
        write_all(self._descriptor, self._block[:count])
        self._grown(count)

    def _grown(self, count: int) -> None:
        with self._changed:
            self._size += count
            self._changed.notify_all()
            self._changed.wait_for(self._close_behind)
        self._raise()

    def _close_behind(self) -> bool:
        return self._size - self._hashed <= _AHEAD or self._error is not None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        try:
            while (size := self._appended()) > self._hashed:
                part = buffer[: size - self._hashed]
                count = os.preadv(self._descriptor, [part], self._hashed)
                if not count:
                    raise OSError(f"{self.path.name} was cut short while it was written")
                self._digest.update(part[:count])
                with self._changed:
                    self._hashed += count
                    self._changed.notify_all()
            if not self._abandoned:
                os.fsync(self._descriptor)
        except BaseException as error:  # noqa: BLE001 - raised where the file is written
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _appended(self) -> int:
        """The size of the file, once it is larger than what is hashed, or that is all of it;
        0 where nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._size > self._hashed or self._ended or self._abandoned
            )
            return 0 if self._abandoned else self._size
