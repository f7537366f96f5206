"""What the body of a module or a class binds names to, read from its source alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glmc_engines.surface.bindings import FUNCTIONS, Binding, Bound, Imported, Scope, Value


def module_scope(tree: ast.Module, module: str, *, package: bool) -> Scope:
    """The scope of a module, whose own name tells what its relative imports mean."""
    scope = Scope()
    _read(tree.body, scope, module if package else module.rpartition(".")[0], _Where())
    return scope


def class_scope(node: ast.ClassDef, module: str) -> Scope:
    """The scope of a class, with the attributes that its methods give to ``self``."""
    scope = Scope()
    _read(node.body, scope, module.rpartition(".")[0], _Where())
    own = set(scope.names)
    for method in node.body:
        if isinstance(method, FUNCTIONS):
            for name, value in _given_to_self(method):
                if name not in own:
                    scope.add(name, Binding(value))
    for name in _slots(scope):
        if name not in scope.names:
            scope.add(name, Binding(Value(None, None, node.lineno)))
    return scope


@dataclass(frozen=True)
class _Where:
    """Under what a statement stands."""

    conditional: bool = False
    for_checkers: bool = False


def _read(body: Sequence[ast.stmt], scope: Scope, parent: str, under: _Where) -> None:
    for statement in body:
        for inner, how in _branches(statement, under):
            _read(inner, scope, parent, how)
        for name, bound in _bound_by(statement, scope, parent):
            scope.add(name, Binding(bound, under.conditional, under.for_checkers))


def _branches(statement: ast.stmt, under: _Where) -> Iterator[tuple[Sequence[ast.stmt], _Where]]:
    """Bodies that stand in the same scope, and under what they stand."""
    maybe = _Where(True, under.for_checkers)
    checkers = _Where(under.conditional, True)
    if isinstance(statement, ast.If):
        names = {
            each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "")
            for each in ast.walk(statement.test)
        }
        negated = isinstance(statement.test, ast.UnaryOp)
        if "TYPE_CHECKING" in names:
            yield statement.body, under if negated else checkers
            yield statement.orelse, checkers if negated else under
        else:
            yield statement.body, maybe
            yield statement.orelse, maybe
    elif isinstance(statement, ast.Try) or type(statement).__name__ == "TryStar":
        tried: ast.Try = statement  # type: ignore[assignment]
        yield tried.body, maybe
        for handler in tried.handlers:
            yield handler.body, maybe
        yield tried.orelse, maybe
        yield tried.finalbody, under
    elif isinstance(statement, (ast.With, ast.AsyncWith)):
        yield statement.body, under
    elif isinstance(statement, (ast.For, ast.AsyncFor, ast.While)):
        yield statement.body, maybe
        yield statement.orelse, maybe
    elif isinstance(statement, ast.Match):
        for case in statement.cases:
            yield case.body, maybe


def _bound_by(statement: ast.stmt, scope: Scope, parent: str) -> Iterator[tuple[str, Bound]]:
    if isinstance(statement, ast.ClassDef):
        yield statement.name, statement
    elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if not any(last_name(each) == "overload" for each in statement.decorator_list):
            yield statement.name, statement
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            first = alias.name.split(".")[0]
            yield alias.asname or first, Imported(alias.name if alias.asname else first)
    elif isinstance(statement, ast.ImportFrom):
        module = absolute(statement, parent)
        for alias in statement.names:
            if alias.name == "*":
                scope.stars.append(module)
            else:
                yield alias.asname or alias.name, Imported(module, alias.name)
    elif isinstance(statement, ast.AnnAssign):
        if isinstance(statement.target, ast.Name):
            value = Value(statement.annotation, statement.value, statement.lineno, field=True)
            yield statement.target.id, value
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            for each in target.elts if isinstance(target, (ast.Tuple, ast.List)) else (target,):
                if isinstance(each, ast.Name):
                    whole = statement.value if each is target else None
                    yield each.id, Value(None, whole, statement.lineno)


def absolute(statement: ast.ImportFrom, parent: str) -> str:
    """The module that an import names, where ``parent`` is the package of the one it stands in."""
    if not statement.level:
        return statement.module or ""
    parts = parent.split(".")
    kept = parts[: len(parts) - statement.level + 1]
    return ".".join([*kept, statement.module] if statement.module else kept)


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name, of what is called or subscripted under it too."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _given_to_self(
    method: ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[tuple[str, Value]]:
    first = [*method.args.posonlyargs, *method.args.args][:1]
    if not first or any(last_name(each) == "staticmethod" for each in method.decorator_list):
        return
    for node in ast.walk(method):
        targets: list[ast.expr] = []
        annotation: ast.expr | None = None
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign):
            targets, annotation, value = [node.target], node.annotation, node.value
        for target in targets:
            for each in target.elts if isinstance(target, (ast.Tuple, ast.List)) else (target,):
                if (
                    isinstance(each, ast.Attribute)
                    and isinstance(each.value, ast.Name)
                    and each.value.id == first[0].arg
                ):
                    whole = value if each is target else None
                    yield each.attr, Value(annotation, whole, each.lineno)


def _slots(scope: Scope) -> list[str]:
    texts: list[str] = []
    for binding in scope.names.get("__slots__", []):
        value = binding.bound.value if isinstance(binding.bound, Value) else None
        if isinstance(value, (ast.Tuple, ast.List)):
            texts += [str(each.value) for each in value.elts if isinstance(each, ast.Constant)]
    return texts
