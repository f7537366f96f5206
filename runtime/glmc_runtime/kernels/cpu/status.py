"""What a function of ``native/`` returns, 0 where it did its work, and the error that it means."""

from __future__ import annotations

NO_MEMORY, BEYOND, UNKNOWN = 1, 2, 3


def failure(function: str, status: int) -> Exception:
    """MemoryError where there was no memory for the work space, IndexError for an index beyond what
    it counts."""
    if status == NO_MEMORY:
        return MemoryError(f"no memory for the work space of {function}")
    if status == BEYOND:
        return IndexError(f"an index of {function} is beyond what it counts")
    if status == UNKNOWN:
        return RuntimeError(f"{function} is no function of this library")
    return RuntimeError(f"{function} returned the unknown status {status}")
