"""The commands of ``glmc-runtime`` as commands of ``glmc``: made of the same table of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from glmc_runtime.cli.commands import COMMANDS
from glmc_runtime.command.options import ARTIFACT_HELP, Command, Option


def function_of(command: Command) -> Callable[..., int]:
    """A function with the command's options as parameters, as typer reads them."""

    def call(**values: Any) -> int:
        return command.load()(SimpleNamespace(**values))

    parameters = [*_artifact_of(command), *map(parameter_of, command.options)]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__doc__ = command.summary
    return call


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


run = function_of(COMMANDS["run"])
chat = function_of(COMMANDS["chat"])
doctor = function_of(COMMANDS["doctor"])
tune_collectives = function_of(COMMANDS["tune-collectives"])
