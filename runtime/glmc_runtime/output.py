"""What a command line does when its output, or a file that it needs, fails."""

from __future__ import annotations

import os
import sys

from glmc_runtime.errors import FileError

_READER_LEFT = 141  # what a shell reports for a process that ended by SIGPIPE


def status_of(error: OSError) -> int:
    """Say on stderr what the system refused and return the exit status.

    Silent for a closed pipe: whoever read our output has seen enough, as in ``| head``.
    """
    if error.filename is None:
        _discard_output()
    if isinstance(error, BrokenPipeError):
        return _READER_LEFT
    print(file_error(error), file=sys.stderr)
    return FileError.exit_status


def file_error(error: OSError) -> FileError:
    """What the system refused, as an error with a code; one without a name is our output's."""
    return FileError(
        f"the system refused to read or write: {error.strerror or error}",
        place="output" if error.filename is None else str(error.filename),
    )


def _discard_output() -> None:
    """Point stdout nowhere, so that the interpreter's flush at exit does not fail as well."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
