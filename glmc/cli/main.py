"""``glmc``: its entry point. Errors are shown as text; ``--debug`` shows traces."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glmc.cli.clock import begin
from glmc_runtime.command.ending import say_stopped, unwound_when_ended

if TYPE_CHECKING:
    from glmc.errors import GlmcError

COMPLETION = "_GLMC_COMPLETE"  # as typer makes it of the program's name


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for our faults, 2 for a request's."""
    begin(of_process=arguments is None)
    with unwound_when_ended():
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        except KeyboardInterrupt as stop:  # also while modules are imported
            return say_stopped(str(stop))


def _main(words: list[str]) -> int:
    from typer import Exit, TyperException

    from glmc.cli.app import build
    from glmc.cli.say import say
    from glmc.errors import GlmcError, OutOfMemoryError
    from glmc_runtime.command.out_of_memory import leave_at_the_limit
    from glmc_runtime.command.output import printable_logs, printable_traces, status_of
    from glmc_runtime.errors import CapacityError
    from glmc_runtime.printable import printable

    debug = "--debug" in words
    # No model hub is ever asked: a model is a directory or a preset.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with printable_logs():
            try:
                group = build()
                if COMPLETION in os.environ:  # a shell asks, and this answers and exits
                    group(prog_name="glmc")
                # Not typer's main, which takes Ctrl-C and a closed pipe for itself.
                with group.make_context("glmc", words or ["--help"]) as context:
                    result = group.invoke(context)
            except TyperException as error:
                raise _usage_error(error) from error
        sys.stdout.flush()  # a closed pipe shows here and not when the interpreter ends
    except GlmcError as error:
        if debug:
            printable_traces()
            raise
        say("\n".join((str(error), *map(printable, getattr(error, "__notes__", ())))), err=True)
        if isinstance(error, (OutOfMemoryError, CapacityError)):
            leave_at_the_limit(error.exit_status)
        return error.exit_status
    except OSError as error:
        if debug and not isinstance(error, BrokenPipeError):
            printable_traces()
            raise
        return status_of(error)
    except Exit as stop:
        return stop.exit_code
    return result if isinstance(result, int) else 0


def _usage_error(error: Any) -> GlmcError:
    """What typer can't parse, in the form of all errors."""
    from glmc.errors import UsageError
    from glmc_runtime.command.nearest import did_you_mean

    context = getattr(error, "ctx", None)
    help_text = f"see '{'glmc' if context is None else context.command_path} --help'"
    if not hasattr(error, "possibilities"):
        return UsageError(_words(error), remedy=help_text)
    name = error.option_name
    parameters = [] if context is None else context.command.params
    flags = [flag for each in parameters for flag in (*each.opts, *each.secondary_opts)]
    return UsageError(
        f"there is no option '{name}'",
        remedy=did_you_mean(name, [flag for flag in flags if flag.startswith("--")]) or help_text,
    )


def _words(error: Any) -> str:
    """What is wrong with an argument or an option's value."""
    kind = type(error).__name__
    if kind == "MissingParameter":
        name = (error.param.metavar or error.param.name).rstrip(".")
        return f"the argument {name} is missing"
    if kind == "BadOptionUsage" and "requires an argument" in error.message:
        return f"{error.option_name} needs a value"
    if kind == "BadOptionUsage" and "does not take a value" in error.message:
        return f"{error.option_name} takes no value"
    words: str = error.format_message().rstrip(".")
    return words


if __name__ == "__main__":
    sys.exit(main())
