"""What a module imports of an engine, which members it reads of that, and which it overrides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from glmc_engines.surface.bindings import FUNCTIONS
from glmc_engines.surface.scopes import last_name
from glmc_engines.surface.uses import Use

_CAUGHT = {"ImportError", "ModuleNotFoundError", "AttributeError", "Exception"}


@dataclass(frozen=True)
class _Import:
    """A name of the engine, the name it gets here, and the outermost ``try`` around it."""

    name: str
    local: str
    tried: ast.Try | None


def imported_uses(tree: ast.Module, engine: str, file: str) -> list[Use]:
    """A row for each import, for each attribute that is read of what was imported, and for each
    method of an imported class that a subclass has anew, where the release has that method.

    Imports for type checkers are none. An import whose failure is caught is optional, unless the
    other branches import something else under the same name: then one of them is needed.
    """
    imports = list(_imports(tree, engine, None))
    rows: dict[str, Use] = {}
    for each in imports:
        same = [other for other in imports if _alternatives(each, other)]
        row = Use(
            each.name,
            "any",
            why=f"imported by {file}",
            optional=each.tried is not None and not same,
            either=f"{file}: {each.local}" if same else "",
        )
        if each.name not in rows or rows[each.name].optional:
            rows[each.name] = row
    asked = _asked_before(tree)
    for each in imports:
        base = rows[each.name]
        maybe = base.optional or bool(base.either)
        for local, attribute in _attributes(tree):
            if local == each.local:
                name = f"{each.name}.{attribute}"
                row = Use(name, "any", why=f"read by {file}", optional=maybe or attribute in asked)
                rows.setdefault(name, row)
        for local, method in _overrides(tree):
            if local == each.local or local.startswith(f"{each.local}."):
                name = f"{each.name}{local.removeprefix(each.local)}.{method}"
                row = Use(name, "any", why=f"overridden by {file}", optional=True)
                rows.setdefault(name, row)
    return list(rows.values())


def _alternatives(one: _Import, other: _Import) -> bool:
    same = one.tried is not None and one.tried is other.tried and one.local == other.local
    return same and one.name != other.name


def _imports(node: ast.AST, engine: str, tried: ast.Try | None) -> Iterator[_Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                if alias.name.split(".")[0] == engine:
                    yield _Import(alias.name, alias.asname or alias.name, tried)
        elif isinstance(child, ast.ImportFrom):
            if not child.level and (child.module or "").split(".")[0] == engine:
                for alias in child.names:
                    name = f"{child.module}.{alias.name}"
                    yield _Import(name, alias.asname or alias.name, tried)
        elif isinstance(child, ast.If) and _is_for_checkers(child.test):
            yield from _imports(ast.Module(child.orelse, []), engine, tried)
        elif isinstance(child, ast.Try) and tried is None and _catches(child):
            yield from _imports(child, engine, child)
        else:
            yield from _imports(child, engine, tried)


def _is_for_checkers(test: ast.expr) -> bool:
    return last_name(test) == "TYPE_CHECKING"


def _catches(node: ast.Try) -> bool:
    for handler in node.handlers:
        kind = handler.type
        kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind] if kind else []
        if not kinds or _CAUGHT & {last_name(each) for each in kinds}:
            return True
    return False


def _attributes(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """``local.attribute``, where ``local`` may be dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            local = _dotted(node.value)
            if local:
                yield local, node.attr


def _overrides(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """``base.method`` for the public methods of every class, each under each of its bases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, FUNCTIONS)]
            for base in node.bases:
                yield from ((_dotted(base), name) for name in methods if not name.startswith("__"))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _asked_before(tree: ast.Module) -> set[str]:
    """Names that ``hasattr`` or ``getattr`` with a default asks for."""
    asked = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in ("hasattr", "getattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant):
                asked.add(str(name.value))
    return asked
