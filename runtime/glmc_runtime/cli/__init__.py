"""``glmc-runtime``: its commands. Errors are shown as text; ``--debug`` shows traces."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from glmc_runtime.command.ending import say_stopped, unwound_when_ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0, or that of the error)."""
    with unwound_when_ended():
        try:
            return _main(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt as stop:  # also while modules are imported
            return say_stopped(str(stop))


def _main(words: Sequence[str]) -> int:
    from glmc_runtime.cli.commands import COMMANDS
    from glmc_runtime.command.logs import configure
    from glmc_runtime.command.out_of_memory import leave_at_the_limit, memory_errors
    from glmc_runtime.command.output import printable_logs, printable_traces, status_of
    from glmc_runtime.command.parser import parse
    from glmc_runtime.errors import CapacityError, GlmcError
    from glmc_runtime.package.constants import __version__

    debug = "--debug" in words
    if debug:
        printable_traces()
    try:
        try:
            command, options = parse("glmc-runtime", __version__, COMMANDS, words)
        except SystemExit:  # --help and --version have been printed
            sys.stdout.flush()
            return 0
        configure(options.verbose, options.quiet)
        with memory_errors(lambda: f"glmc-runtime {command.name}"), printable_logs():
            status = command.load()(options)
        sys.stdout.flush()  # a closed pipe shows here and not when the interpreter ends
    except GlmcError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        if isinstance(error, CapacityError):
            leave_at_the_limit(error.exit_status)
        return error.exit_status
    except OSError as error:
        if debug and not isinstance(error, BrokenPipeError):
            raise
        return status_of(error)
    return status
