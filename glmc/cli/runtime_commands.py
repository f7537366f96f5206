"""The commands of ``glmc-runtime`` as commands of ``glmc``: made of the same table of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from glmc.errors import UsageError
from glmc.estimates.names import require_device
from glmc_runtime.cli.commands import COMMANDS
from glmc_runtime.command.options import ARTIFACT_HELP, OUTPUT, Command, Option


def function_of(command: Command) -> Callable[..., int]:
    """A function with the command's options as parameters, as typer reads them."""

    def call(**values: Any) -> int:
        return command.load()(SimpleNamespace(**values))

    call.__signature__ = signature_of(command)  # type: ignore[attr-defined]
    call.__doc__ = command.summary
    return call


def signature_of(command: Command, *more: Option) -> Signature:
    """The parameters of a command, and those of options that ``glmc`` alone has."""
    return Signature([*_artifact_of(command), *map(parameter_of, (*command.options, *more))])


def _artifact_of(command: Command) -> Iterator[Parameter]:
    argument = typer.Argument(help=ARTIFACT_HELP, metavar="ARTIFACT")
    if command.artifact == "optional":
        kind = Annotated[str | None, argument]
        yield Parameter("artifact", Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    elif command.artifact == "needed":
        yield Parameter("artifact", Parameter.KEYWORD_ONLY, annotation=Annotated[str, argument])


def parameter_of(option: Option) -> Parameter:
    """An option as a parameter; None where it is left out, unless it has a default."""
    kind: Any = option.kind
    if option.many:
        kind = list[kind]
    if option.default is None:
        kind = kind | None
    flag = f"{option.flag}/{option.negative}" if option.negatable else option.flag
    words = [word for word in (option.short, flag) if word]
    declared = typer.Option(
        *words,
        help=option.help,
        metavar=option.metavar or None,
        rich_help_panel=option.group if option.group != "Options" else None,
        count=option.counted,
        show_default=not option.counted,
    )
    return Parameter(
        option.name,
        Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[kind, declared],
    )


_DEVICE_FILE = Option(
    "--device-file",
    "Floors of the timeline are those of this device, such as h200 or a FILE.yaml "
    "(default: the GPU's, where it is described).",
    metavar="NAME",
    group=OUTPUT,
)


def run(**values: Any) -> int:
    options = SimpleNamespace(**values)
    if options.device_file is not None:
        require_device(options.device_file)
        if options.timeline is None:
            raise UsageError(
                "--device-file is for the floors of a timeline", remedy="--timeline FILE"
            )
    status = COMMANDS["run"].load()(options)
    if options.timeline is not None:
        from glmc.estimates.timeline import add_costs

        add_costs(Path(options.timeline), Path(options.artifact), options.device_file)
    return status


run.__signature__ = signature_of(COMMANDS["run"], _DEVICE_FILE)  # type: ignore[attr-defined]
run.__doc__ = COMMANDS["run"].summary
chat = function_of(COMMANDS["chat"])
doctor = function_of(COMMANDS["doctor"])
tune_collectives = function_of(COMMANDS["tune-collectives"])
