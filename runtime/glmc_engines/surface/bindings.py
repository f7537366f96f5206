"""What a name of a module or a class may stand for, as data."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Union

_LONGEST = 80  # characters of a value


@dataclass(frozen=True)
class Imported:
    """A name of another module: ``module`` alone, or ``name`` in it."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Value:
    """A variable or a field: its annotation and the value it is given."""

    annotation: ast.expr | None
    value: ast.expr | None
    line: int
    field: bool = False

    @property
    def text(self) -> str:
        """As much of it as tells a change: the annotation, or else the value, of which a long one
        is cut."""
        shown = self.annotation if self.annotation is not None else self.value
        text = "" if shown is None else ast.unparse(shown)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Bound = Union[ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, Imported, Value]


@dataclass(frozen=True)
class Binding:
    """One way in which a name may be bound.

    ``conditional`` ones stand under an ``if`` or a ``try``; those ``for_checkers`` only are seen by
    type checkers, and not when the module runs.
    """

    bound: Bound
    conditional: bool = False
    for_checkers: bool = False


@dataclass
class Scope:
    """The names of one body in the order of the source, and the modules that it takes all of."""

    names: dict[str, list[Binding]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def add(self, name: str, binding: Binding) -> None:
        self.names.setdefault(name, []).append(binding)

    def best(self, name: str) -> Binding | None:
        """The binding that a reader would call its definition, or None where there is none.

        A class or function comes before an import, that before a variable, and of equals the last
        one that is not a stand-in of an ``except`` clause, which is the first that was written.
        """
        found = self.names.get(name, [])
        checked = all(each.for_checkers for each in found)
        # Where the module answers for a name itself, only type checkers see its definition.
        real = found if checked else [each for each in found if not each.for_checkers]
        if checked and found and "__getattr__" not in self.names:
            return None
        plain = [each for each in real if not each.conditional]
        ranked = sorted([*reversed(plain), *(each for each in real if each.conditional)], key=_rank)
        return ranked[0] if ranked else None


def _rank(binding: Binding) -> int:
    bound = binding.bound
    if isinstance(bound, Imported):
        return 1
    if isinstance(bound, Value):
        empty = isinstance(bound.value, ast.Constant) and bound.value.value is None
        return 3 if empty and bound.annotation is None else 2
    return 0
