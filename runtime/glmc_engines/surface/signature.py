"""Parameters of a function, as they are written in its source."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Passing = Literal["positional", "any", "keyword", "*", "**"]
_STARS = ("*", "**")


@dataclass(frozen=True)
class Parameter:
    """One parameter, how it may be passed, and the text of its default where it has one."""

    name: str
    passing: Passing = "any"
    default: str | None = None

    @property
    def required(self) -> bool:
        return self.default is None and self.passing not in _STARS

    def __str__(self) -> str:
        stars = self.passing if self.passing in _STARS else ""
        return f"{stars}{self.name}" + ("" if self.default is None else f"={self.default}")


@dataclass(frozen=True)
class Signature:
    """Parameters in order, without the one that is bound."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, arguments: ast.arguments, *, bound: bool) -> Signature:
        """As written; a ``bound`` function loses its first parameter."""
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
        only = len(arguments.posonlyargs)
        parameters = [
            Parameter(each.arg, "positional" if place < only else "any", _text(default))
            for place, (each, default) in enumerate(zip(plain, defaults, strict=True))
        ][bound:]
        if arguments.vararg is not None:
            parameters.append(Parameter(arguments.vararg.arg, "*"))
        parameters += [
            Parameter(each.arg, "keyword", _text(default))
            for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]
        if arguments.kwarg is not None:
            parameters.append(Parameter(arguments.kwarg.arg, "**"))
        return cls(tuple(parameters))

    def __str__(self) -> str:
        shown: list[str] = []
        for place, parameter in enumerate(self.parameters):
            before = self.parameters[place - 1].passing if place else ""
            if before == "positional" and parameter.passing != "positional":
                shown.append("/")
            if parameter.passing == "keyword" and before not in ("keyword", "*"):
                shown.append("*")
            shown.append(str(parameter))
        if self.parameters and self.parameters[-1].passing == "positional":
            shown.append("/")
        return f"({', '.join(shown)})"

    def refuses(self, passed: Sequence[str]) -> str:
        """Why a call with these names fails; empty when it does not."""
        known = {each.name for each in self.parameters if each.passing not in _STARS}
        rest = any(each.passing == "**" for each in self.parameters)
        unknown = [name for name in passed if name not in known and not rest]
        missing = [
            each.name for each in self.parameters if each.required and each.name not in passed
        ]
        reasons = [f"does not take {', '.join(unknown)}"] if unknown else []
        reasons += [f"requires {', '.join(missing)}"] if missing else []
        return " and ".join(reasons)

    def differs(self, names: Sequence[str]) -> str:
        """Why a definition with these parameters can't stand in; empty when it can."""
        own = [each.name for each in self.parameters]
        return "" if own == list(names) else f"has the parameters {self}"

    def changed(self, older: Signature) -> str:
        """What is different from an older one: added, dropped, other defaults or ways to pass."""
        now, then = ({each.name: each for each in these.parameters} for these in (self, older))
        parts = [f"+{each}" for name, each in now.items() if name not in then]
        parts += [f"-{each}" for name, each in then.items() if name not in now]
        parts += [
            f"{_described(then[name])} -> {_described(each)}"
            for name, each in now.items()
            if name in then and each != then[name]
        ]
        kept = [[name for name in these if name in now and name in then] for these in (now, then)]
        if kept[0] != kept[1]:
            parts.append(f"order {', '.join(kept[1])} -> {', '.join(kept[0])}")
        return ", ".join(parts)


def _described(parameter: Parameter) -> str:
    only = {"keyword": "keyword-only ", "positional": "positional-only "}
    return f"{only.get(parameter.passing, '')}{parameter}"


def _text(node: ast.expr | None) -> str | None:
    return None if node is None else ast.unparse(node)
