"""``glmc``: its commands. Errors are shown as text; ``--debug`` shows traces."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from glmc.cli.bisect_command import bisect_command
from glmc.cli.compile_command import compile_command
from glmc.cli.inspect_command import inspect_command
from glmc.cli.presets_command import presets_command
from glmc.cli.say import say
from glmc.errors import GlmcError, OutOfMemoryError
from glmc.out_of_memory import memory_errors
from glmc_runtime.cli import main as runtime_main
from glmc_runtime.command.ending import unwound_when_ended
from glmc_runtime.command.out_of_memory import leave_at_the_limit
from glmc_runtime.command.output import printable_logs, printable_traces, status_of
from glmc_runtime.printable import printable


def _run(context: typer.Context) -> int:
    """Hands over to the runtime, which knows nothing of the compiler; all flags are its own."""
    return runtime_main(["run", *context.args], program="glmc")


app = typer.Typer(
    name="glmc",
    help="Compile GLM-4.x for Kunlun XPU and CPU, and replay the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_command)
app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    help="Generate text from an artifact (the runtime's own command; try 'glmc run --help').",
)(_run)
app.command("inspect")(inspect_command)
app.command("bisect")(bisect_command)
app.command("presets")(presets_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for our faults, 2 for a request's."""
    with unwound_when_ended():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # No model hub is ever asked: a model is a directory or a preset.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with memory_errors(lambda: " ".join(("glmc", *words[:1]))), printable_logs():
            result = app(words, standalone_mode=False)
        sys.stdout.flush()  # a closed pipe shows here and not when the interpreter ends
    except GlmcError as error:
        if debug:
            printable_traces()  # here, since typer sets a hook of its own
            raise
        say("\n".join((str(error), *map(printable, getattr(error, "__notes__", ())))), err=True)
        if isinstance(error, OutOfMemoryError):
            leave_at_the_limit(error.exit_status)
        return error.exit_status
    except OSError as error:
        if debug and not isinstance(error, BrokenPipeError):
            printable_traces()
            raise
        return status_of(error)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer's own answer to a closed pipe
            return status_of(stop.__context__)
        raise
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except typer.TyperException as error:
        say(f"glmc: {printable(error.format_message())}", err=True)
        return error.exit_code
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
