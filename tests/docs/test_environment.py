"""docs/environment.md names the variables that the source reads, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from glmc.dynamo.compile.checks import XMLIR_VARIABLES
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "environment.md"
FOLDERS = ("bench", "glmc", "runtime", "tests", "tools", "tuning")
# The names that a loop reads; anything else is a literal or a constant of its module.
_LOOPS = {"glmc/dynamo/compile/checks.py": tuple(XMLIR_VARIABLES)}


class UnknownNameError(Exception):
    """A variable is read under a name that only running the source would tell."""


def _is_environment(node: ast.expr) -> bool:
    """``os.environ``, or ``environ`` imported by itself."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    return name == "environ"


def _keys(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that ``node`` itself reads a variable by."""
    if isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Attribute) and (
            (function.attr in ("get", "pop", "setdefault") and _is_environment(function.value))
            or function.attr == "getenv"
        ):
            yield node.args[0]
    elif isinstance(node, ast.Subscript) and _is_environment(node.value):
        yield node.slice
    elif isinstance(node, ast.Compare) and _is_environment(node.comparators[0]):
        yield node.left


def read_variables(source: str, in_loops: tuple[str, ...] = ()) -> set[str]:
    """Names of the environment variables that a module reads."""
    tree = ast.parse(source)
    constants = {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        for key in _keys(node):
            name = constants.get(key.id) if isinstance(key, ast.Name) else None
            if isinstance(key, ast.Constant):
                name = key.value
            if name is None and not in_loops:
                raise UnknownNameError(ast.unparse(node))
            names |= {name} if name is not None else set(in_loops)
    return names


def test_the_page_has_what_the_source_reads() -> None:
    read: set[str] = set()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            loops = _LOOPS.get(path.relative_to(ROOT).as_posix(), ())
            text = path.read_text(encoding="utf-8")
            read |= read_variables(text, loops) if "environ" in text or "getenv" in text else set()
    titles = (
        "Compiler and runtime",
        "Serving engines",
        "On a Kunlun machine",
        "Tests, tools and benchmarks",
    )
    rows = [row for title in titles for row in table_rows(section(PAGE, title))]
    named = [row[0].strip("`") for row in rows]
    assert sorted(named) == sorted(read)
    values = {row[0].strip("`"): row[1].strip("`") for row in rows if len(row) == 2}
    assert values == XMLIR_VARIABLES


def test_other_variables_are_not_read_here() -> None:
    others = {row[0].strip("`") for row in table_rows(section(PAGE, "Of what is below"))}
    rows = [row[0].strip("`") for row in table_rows(PAGE.read_text())]
    assert others and all(rows.count(name) == 1 for name in rows)


def test_every_way_to_read_is_seen() -> None:
    source = (
        "import os\nNAME = 'A'\nos.environ.get(NAME)\nos.environ['B']\nos.getenv('C', '1')\n"
        "os.environ.setdefault('D', '0')\n'E' in os.environ\nenvironment.get('F')\n"
    )
    assert read_variables(source) == {"A", "B", "C", "D", "E"}
    with pytest.raises(UnknownNameError, match="name"):
        read_variables("for name in names: os.environ.get(name)")
