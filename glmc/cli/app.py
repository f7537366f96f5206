"""The command line as typer has it: rows of the table, and the options that all commands share."""

from __future__ import annotations

from functools import partial
from inspect import Signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from glmc.cli.commands import ROWS, Row
from glmc.cli.options import ALONE
from glmc.cli.runtime_commands import parameter_of
from glmc.errors import UsageError
from glmc.out_of_memory import memory_errors
from glmc_runtime.arguments import shown
from glmc_runtime.command.logs import configure
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.options import COMMON
from glmc_runtime.command.out_of_memory import memory_errors as runtime_memory_errors

_COMMON = "glmc.common"
_NUMBERS: dict[Any, str] = {int: "integer", float: "number", list[int]: "integer"}


def build() -> Any:
    """The command line, without the modules of its commands."""
    app = typer.Typer(name="glmc", cls=Rows)

    @app.callback()
    def options(
        version: Annotated[
            bool,
            typer.Option("--version", help="Show versions.", is_eager=True, callback=_version),
        ] = False,
    ) -> None:
        """Compile GLM-4.x for Kunlun XPU, CUDA and CPU, and replay the result."""

    return with_common(typer.main.get_command(app))


class PlainHelp:
    """Shows no type beside ``--help``, and it under the heading of what is common to all."""

    def get_help_option(self, context: Any) -> Any:
        option = super().get_help_option(context)  # type: ignore[misc]
        if option is not None:
            option.metavar, option.rich_help_panel = "", COMMON[0].group
            option.default = False
        return option


class Rows(PlainHelp, TyperGroup):
    """The table as a group: the help is made of the rows, and a command's module is imported when
    it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {
            row.name: TyperCommand(row.name, help=row.summary, rich_help_panel=row.group)
            for row in ROWS
        }

    def resolve_command(self, context: Any, words: list[str]) -> tuple[str | None, Any, list[str]]:
        row = next((row for row in ROWS if row.name == words[0]), None)
        if row is None:
            raise UsageError(
                f"there is no command '{words[0]}'",
                expected=", ".join(self.commands),
                remedy=did_you_mean(words[0], self.commands) or "see 'glmc --help'",
            )
        return row.name, command_of(row), words[1:]

    def invoke(self, context: Any) -> Any:
        if not context._protected_args:  # where typer keeps the words from the command's name on
            raise UsageError(
                "no command was named",
                expected=", ".join(self.commands),
                remedy="see 'glmc --help'",
            )
        context.meta[_COMMON] = _taken(context.params)
        return super().invoke(context)


class RowCommand(PlainHelp, TyperCommand):
    """A command with the common options, which are no parameters of its function."""

    row: Row

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        context.allow_extra_args = True  # they are refused below, in our words
        try:
            rest: list[str] = super().parse_args(context, _with_values(words))
        except typer.TyperException as error:
            unplaced: Any = error  # of an option's value typer says no command
            if getattr(error, "ctx", context) is None:
                unplaced.ctx = context
            raise
        if rest and not context.resilient_parsing:
            raise UsageError(f"there is no further argument '{rest[0]}'", remedy=_help_of(context))
        return rest

    def invoke(self, context: Any) -> Any:
        common = {**_taken(context.params)}
        for name, earlier in context.meta.get(_COMMON, {}).items():
            common[name] += earlier
        configure(int(common["verbose"]), bool(common["quiet"]))
        errors = runtime_memory_errors if self.row.of_runtime else memory_errors
        with errors(lambda: f"glmc {self.row.name}"):
            return super().invoke(context)


def command_of(row: Row) -> RowCommand:
    """The command of a row, its module imported."""
    app = typer.Typer(add_completion=False)
    app.command(row.name, cls=RowCommand)(row.load())
    command: RowCommand = with_common(typer.main.get_command(app))
    command.row = row
    return command


def with_common(command: Any) -> Any:
    """The command with the options that all share; a flag's type is not shown, as it takes none."""

    def common(**values: Any) -> None:
        """Its parameters alone are used."""

    common.__signature__ = Signature(list(map(parameter_of, COMMON)))  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(common)
    command.params += typer.main.get_command(app).params
    for parameter in command.params:
        if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
            parameter.metavar = ""
        parameter.process_value = partial(_checked, parameter)
        if parameter.param_type_name == "argument":  # its name says what it is
            parameter.display_type_rich = lambda ctx: None
            parameter.get_usage_pieces = partial(_usage, parameter.metavar or parameter.name)
    return command


def _with_values(words: list[str]) -> list[str]:
    """The words with the values that options have which stand alone; a value needs '='."""
    return [f"{word}={ALONE[word]}" if word in ALONE else word for word in words]


def _help_of(context: Any) -> str:
    return f"see '{context.command_path} --help'"


def _usage(name: str, context: Any) -> list[str]:
    """An argument in the usage line, without braces."""
    return [name]


def _checked(parameter: Any, context: Any, value: Any) -> Any:
    """A value as typer checks it, unless it has its type already: pydantic, which does that, takes
    longer to import than typer itself."""
    if value is None and not parameter.required:
        value = () if getattr(parameter, "multiple", False) else None
    elif not _has_type(value, parameter.type_descriptor.annotation):
        try:
            return type(parameter).process_value(parameter, context, value)
        except typer.BadParameter as error:
            kind = _NUMBERS.get(parameter.type_descriptor.annotation)
            if kind is None or value is None:
                raise
            values = value if parameter.multiple else [value]
            raise UsageError(
                f"{parameter.opts[-1]} is no {kind}",
                found=", ".join(map(shown, values)),
                remedy=_help_of(context),
            ) from error
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


def _has_type(value: Any, kind: Any) -> bool:
    if kind == list[str]:
        return bool(value) and all(isinstance(each, str) for each in value)
    return type(value) is kind


def _taken(values: dict[str, Any]) -> dict[str, int]:
    """The common options, taken out of those of a command."""
    return {option.name: int(values.pop(option.name, 0) or 0) for option in COMMON}


def _version(asked: bool) -> None:
    if asked:
        from glmc.cli.version import version_lines

        typer.echo("\n".join(version_lines()))
        raise typer.Exit
