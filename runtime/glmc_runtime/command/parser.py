"""The parser of ``glmc-runtime``, made of its table of commands by the standard library alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.options import ARTIFACT_HELP, COMMON, Command, Option
from glmc_runtime.errors import RequestError


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong as an error with a code; ``--help`` is left to the caller."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message, remedy=f"see '{self.prog} --help'")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the command's name, which are flags without a value, and the others."""
    for place, word in enumerate(words):
        if not word.startswith("-"):
            return list(words[:place]), list(words[place:])
    return list(words), []


def parse(
    program: str, version: str, commands: Mapping[str, Command], words: Sequence[str]
) -> tuple[Command, SimpleNamespace]:
    """The command that the words name and its options; raises :class:`RequestError`, and SystemExit
    where ``--help`` or ``--version`` was asked for and printed."""
    before, rest = split(words)
    common = SimpleNamespace()
    general = _general_parser(program, version, commands.values())
    if not words:
        before = ["--help"]
    _require_known(general, *general.parse_known_args(before, common), before)
    if not rest:
        raise RequestError(
            "no command was named",
            expected=", ".join(commands),
            remedy=f"see '{program} --help'",
        )
    name = rest[0]
    if name not in commands:
        raise RequestError(
            f"there is no command '{name}'",
            expected=", ".join(commands),
            remedy=did_you_mean(name, commands) or f"see '{program} --help'",
        )
    parser = _command_parser(program, commands[name])
    options = SimpleNamespace()
    _require_known(parser, *parser.parse_known_args(rest[1:], options), rest[1:])
    for option in COMMON:
        earlier = getattr(common, option.name)
        later = getattr(options, option.name)
        setattr(options, option.name, earlier + later if option.counted else earlier or later)
    return commands[name], options


def _require_known(
    parser: argparse.ArgumentParser,
    options: SimpleNamespace,
    unknown: list[str],
    words: Sequence[str],
) -> None:
    if not unknown:
        return
    word = next((each for each in unknown if each.startswith("-")), unknown[0])
    flags = [flag for action in parser._actions for flag in action.option_strings]
    kind = "option" if word.startswith("-") else "further argument"
    raise RequestError(
        f"there is no {kind} '{word.partition('=')[0]}'",
        remedy=did_you_mean(word.partition("=")[0], flags) or f"see '{parser.prog} --help'",
    )


def _general_parser(program: str, version: str, commands: Iterable[Command]) -> _Parser:
    lines = ["commands:", *(f"  {each.name:<10} {each.summary}" for each in commands)]
    lines += ["", f"'{program} COMMAND --help' shows its options."]
    parser = _Parser(
        prog=program,
        usage=f"{program} [OPTIONS] COMMAND ARTIFACT ...",
        description="Replay an artifact that glmc compiled.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{program} {version}")
    add_options(parser, COMMON)
    return parser


def _command_parser(program: str, command: Command) -> _Parser:
    parser = _Parser(
        prog=f"{program} {command.name}", description=command.summary, allow_abbrev=False
    )
    if command.artifact != "none":
        count = "?" if command.artifact == "optional" else None
        parser.add_argument("artifact", metavar="ARTIFACT", nargs=count, help=ARTIFACT_HELP)
    add_options(parser, (*command.options, *COMMON))
    return parser


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Add each option under the heading of its group."""
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        flags = [flag for flag in (option.short, option.flag) if flag]
        groups[option.group].add_argument(*flags, **_keywords(option))


def _keywords(option: Option) -> dict[str, Any]:
    shown = option.default is not None and option.kind is not bool and not option.counted
    keywords: dict[str, Any] = {
        "help": option.help.replace("%", "%%") + (" (default: %(default)s)" if shown else ""),
        "default": option.default,
    }
    if option.counted:
        return {**keywords, "action": "count"}
    if option.kind is bool:
        action: Any = argparse.BooleanOptionalAction if option.negatable else "store_true"
        return {**keywords, "action": action}
    if option.many:
        keywords["action"] = "append"
    return {
        **keywords,
        "type": option.kind,
        "metavar": option.metavar or option.kind.__name__.upper(),
    }
