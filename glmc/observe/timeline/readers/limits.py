"""How much a profiler's file may come to in memory: a damaged or hostile one may say anything.

Traces take a twentieth of their size where they are packed, with a value for each packed byte, two
where shapes were recorded, and an event for every twenty. Each limit is half as much more at least,
and has room for any small file. A file of 4 MB takes less than 4 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmc.errors import UsageError

LARGEST = 4 << 30
"""Bytes of a file, and of what is packed in it."""
_BEGIN = (b"{", b"[", b",")
_ENDS = tuple(
    mark.encode() for mark in "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
)  # of lines, as str.splitlines has them


@dataclass(frozen=True)
class Limits:
    """Of a file of some size: the bytes that it may unpack to, the ``values`` in a JSON document or
    the lines of a text, and the ``events``, each at most."""

    unpacked: int
    values: int
    events: int

    @classmethod
    def of(cls, size: int) -> Limits:
        unpacked = min(LARGEST, max(size, (32 << 20) + 50 * size))
        return cls(unpacked, (2 << 20) + 3 * size, (1 << 19) + size // 2)

    def require_bytes(self, path: Path, count: int) -> None:
        """Raise UsageError where more was unpacked."""
        _require(path, "unpacks to more bytes", count, self.unpacked)

    def require_values(self, path: Path, content: bytes) -> None:
        """Raise UsageError where a JSON document has more, before it is parsed."""
        _require(path, "has more values", sum(map(content.count, _BEGIN)), self.values)

    def require_lines(self, path: Path, content: bytes) -> None:
        """Raise UsageError where a text has more, before it is split."""
        _require(path, "has more lines", sum(map(content.count, _ENDS)), self.values)

    def require_events(self, path: Path, count: int) -> None:
        """Raise UsageError where there are more, before any is made."""
        _require(path, "has more events", count, self.events)


def _require(path: Path, what: str, found: int, most: int) -> None:
    if found > most:
        raise UsageError(
            f"the file {what} than one of its size can have",
            place=str(path),
            expected=f"at most {most:,}",
            found=f"{found:,}" if found <= most + most // 2 else f"more than {most:,}",
            remedy="record it once more, with fewer steps",
        )
