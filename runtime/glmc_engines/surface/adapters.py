"""The rows of an adapter of ours, read from its sources: those it declares and those it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from glmc_engines.surface.imports import imported_uses
from glmc_engines.surface.scopes import last_name
from glmc_engines.surface.uses import Use
from glmc_runtime.errors import RequestError

HERE = Path(__file__).parent.parent


def adapter_uses(engine: str, folder: Path = HERE) -> tuple[Use, ...]:
    """Rows of the adapter of an engine, each name once, ordered by name."""
    declared: dict[str, Use] = {}
    imported: dict[str, Use] = {}
    for file in sorted((folder / engine).rglob("*.py")):
        tree = ast.parse(file.read_bytes())
        declared |= {use.name: use for use in _declared(tree, file)}
        for use in imported_uses(tree, engine, file.relative_to(folder).as_posix()):
            # What is needed in one place is needed.
            if use.name not in imported or imported[use.name].optional:
                imported[use.name] = use
    if not declared and not imported:
        raise RequestError(
            f"there is no adapter for '{engine}'",
            expected=f"a folder '{engine}' with sources in glmc_engines",
            remedy="name an engine that glmc has an adapter for, such as vllm==0.33.0",
        )
    return tuple((imported | declared)[name] for name in sorted(imported | declared))


def _declared(tree: ast.Module, file: Path) -> Iterator[Use]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if "SURFACE" in (last_name(each) for each in targets):
            value = statement.value
            for row in value.elts if isinstance(value, (ast.Tuple, ast.List)) else (value,):
                yield _row(row, file)


def _row(node: ast.expr | None, file: Path) -> Use:
    fields = ("name", "kind", "parameters", "why", "optional", "override", "either")
    try:
        if not isinstance(node, ast.Call) or last_name(node) != "Use":
            raise ValueError("no call of Use")
        values = dict(zip(fields, (ast.literal_eval(each) for each in node.args), strict=False))
        values |= {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
        parameters = values.pop("parameters", None)
        return Use(**values, parameters=None if parameters is None else tuple(parameters))
    except (ValueError, TypeError) as error:
        raise RequestError(
            "a row of SURFACE can't be read without importing it",
            place=f"{file}:{getattr(node, 'lineno', 1)}",
            expected="Use(...) whose arguments are literals",
            found=str(error),
        ) from error
