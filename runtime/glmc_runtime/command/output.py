"""Failures of a command line's output, or of a file that it needs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from types import TracebackType
from typing import Any

from glmc_runtime.errors import FileError
from glmc_runtime.printable import printable_lines, terminal_text

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


def aside(text: str) -> None:
    """Say what is no result on stderr, unless ``--quiet`` asks for errors only."""
    if logging.getLogger("glmc_runtime").isEnabledFor(logging.WARNING):
        print(printable_lines(text), file=sys.stderr)


def counted(number: int, name: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def generated(text: str) -> str:
    """What a model says, for stdout: exact in a file or a pipe, and on a terminal without the
    characters that a terminal obeys."""
    return terminal_text(text) if sys.stdout.isatty() else text


class PrintableRecord(logging.LogRecord):
    """A record whose text no terminal obeys."""

    def getMessage(self) -> str:  # noqa: N802 - as logging has it
        return printable_lines(super().getMessage())


@contextmanager
def printable_logs() -> Iterator[None]:
    """Let loggers and warnings write printable text: libraries name what they found in a
    checkpoint. A warning of ours is its text alone; with ``-q`` there is none."""
    made, written = logging.getLogRecordFactory(), warnings.formatwarning

    def warning(message: Warning | str, *values: Any, **named: Any) -> str:
        if not logging.getLogger("glmc").isEnabledFor(logging.WARNING):
            return ""
        own = str(message).startswith("glmc: ")
        return printable_lines(f"{message}\n" if own else written(message, *values, **named))

    logging.setLogRecordFactory(PrintableRecord)
    warnings.formatwarning = warning
    try:
        yield
    finally:
        logging.setLogRecordFactory(made)
        warnings.formatwarning = written


def printable_traces() -> None:
    """Let the trace of an error that ends the process be printable: whatever it was caused by may
    quote a file."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        print(printable_lines("".join(format_exception(kind, error, traceback))), file=sys.stderr)

    sys.excepthook = show


def _discard_output() -> None:
    """Point stdout nowhere, so that the interpreter's flush at exit does not fail as well."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
