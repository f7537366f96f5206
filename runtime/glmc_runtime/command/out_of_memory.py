"""Memory that runs out: one error with a code, whoever says so."""

from __future__ import annotations

import atexit
import errno
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glmc_runtime.errors import CapacityError, GlmcError

# What torch, numpy, the system's loader and Python say of memory that they did not get; a thread
# needs memory for its stack.
_SAYINGS = (
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)

_REMEDY = "load with fewer kv_blocks, or where more memory is free (ulimit -v, cgroup)"
_AT_THE_LIMIT = 0.95
_STATUS = Path("/proc/self/status")


@contextmanager
def memory_errors(
    stage: Callable[[], str], kind: type[GlmcError] = CapacityError, remedy: str = _REMEDY
) -> Iterator[None]:
    """Raise an error of ``kind``, with the stage, for memory that runs out in the block; one of
    this kind that is raised there stays what it is."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, kind):
        raise
    except BaseException as error:  # a library in Rust panics with one that is no Exception
        shortage = shortage_behind(error)
        if shortage is None:
            raise
        raise kind(
            "memory ran out",
            place=stage(),
            found=next(iter(str(shortage).splitlines()), type(shortage).__name__),
            remedy=remedy,
        ) from error


def shortage_behind(error: BaseException) -> BaseException | None:
    """The error of memory that was short, where that is what ``error`` is or comes from.

    An error with a code counts by its cause alone: its own words are about something else.
    """
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        if _is_shortage(one):
            return one
        seen.append(one)
        one = one.__cause__ if isinstance(one, GlmcError) else one.__cause__ or one.__context__
    return None


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, (RuntimeError, ImportError)):
        return any(each in str(error).lower() for each in _SAYINGS)
    # C that does not say why it failed, and Rust that does not expect to: faults of their own,
    # unless there was nothing left to give.
    unexplained = isinstance(error, SystemError) or type(error).__name__ == "PanicException"
    return unexplained and _is_at_the_limit()


def leave_at_the_limit(status: int) -> None:
    """At the end of the program, leave without taking the interpreter apart where there was no
    memory left: libraries in C that failed half way have been seen to hang there."""
    if _is_at_the_limit():
        atexit.register(_leave, status)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_at_the_limit() -> bool:
    """Whether the process has had about all the address space that it may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return False
    peak = re.search(r"^VmPeak:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return peak is not None and int(peak[1]) * 1024 > _AT_THE_LIMIT * limit
