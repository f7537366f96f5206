"""A command in a fork of the test's process: one of its own without the seconds of its imports."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def in_a_fork(command: Callable[[], int], stdout: int) -> tuple[int, str]:
    """Run ``command`` with ``stdout`` as its output; its exit status and what it said on stderr.

    What happens after a ``main`` has returned shows in a real process alone.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.dup2(stdout, 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
            status = command()
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as said:
        err = said.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), err
