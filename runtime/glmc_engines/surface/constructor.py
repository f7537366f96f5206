"""The parameters with which a class is called: its ``__init__``, or the fields of a dataclass."""

from __future__ import annotations

import ast

from glmc_engines.surface.bindings import Value
from glmc_engines.surface.lookup import Class, Lookup, Member
from glmc_engines.surface.scopes import class_scope, last_name
from glmc_engines.surface.signature import Parameter, Signature

# Bases of other distributions that make a class of its fields.
_FIELD_BASES = ("NamedTuple", "Struct", "BaseModel")


def constructor(lookup: Lookup, kind: Class) -> Signature | None:
    """None where nothing in the release says how the class is called."""
    init = lookup.member(kind, "__init__")
    owner = init.owner if isinstance(init, Member) else None
    if owner != kind and _has_fields(lookup, kind):
        return Signature(tuple(_ordered(list(_fields(lookup, kind).values()))))
    return init.signature() if isinstance(init, Member) else None


def _has_fields(lookup: Lookup, kind: Class) -> bool:
    if any(_makes_fields(lookup, kind, each) for each in kind.node.decorator_list):
        return True
    if any(last_name(base) in _FIELD_BASES for base in kind.node.bases):
        return True
    # A dataclass hands its fields on, but a subclass adds to them only by being one too.
    return any(_has_fields(lookup, base) for base in lookup.bases(kind))


def _makes_fields(lookup: Lookup, kind: Class, decorator: ast.expr) -> bool:
    if last_name(decorator) in ("dataclass", "define", "frozen"):
        return True
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    found = lookup.resolve(kind.module, called)
    return (
        isinstance(found, Member)
        and not isinstance(found.bound, Value)
        and any(last_name(each) == "dataclass_transform" for each in found.bound.decorator_list)
    )


def _fields(lookup: Lookup, kind: Class) -> dict[str, Parameter]:
    """Bases first, as dataclasses have it; a field that is declared again keeps its place."""
    fields: dict[str, Parameter] = {}
    for base in reversed(lookup.bases(kind)):
        fields |= _fields(lookup, base)
    own = any(_makes_fields(lookup, kind, each) for each in kind.node.decorator_list)
    if not own and not any(last_name(base) in _FIELD_BASES for base in kind.node.bases):
        return fields
    keywords = _flag(kind.node, "kw_only")
    for name, bindings in class_scope(kind.node, kind.module).names.items():
        value = bindings[-1].bound
        if not isinstance(value, Value) or not value.field or value.annotation is None:
            continue
        if last_name(value.annotation) == "KW_ONLY":
            keywords = True
        elif last_name(value.annotation) != "ClassVar" and _option(value, "init") != "False":
            only = keywords or _option(value, "kw_only") == "True"
            fields[name] = Parameter(name, "keyword" if only else "any", _default(value))
    return fields


def _ordered(parameters: list[Parameter]) -> list[Parameter]:
    return sorted(parameters, key=lambda each: each.passing == "keyword")


def _flag(node: ast.ClassDef, name: str) -> bool:
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    keywords = [*node.keywords, *(word for call in calls for word in call.keywords)]
    return any(each.arg == name and ast.unparse(each.value) == "True" for each in keywords)


def _option(value: Value, name: str) -> str:
    """An argument of ``field(...)``, as text."""
    if not isinstance(value.value, ast.Call) or last_name(value.value).lower() != "field":
        return ""
    return next((ast.unparse(each.value) for each in value.value.keywords if each.arg == name), "")


def _default(value: Value) -> str | None:
    if value.value is None:
        return None
    if isinstance(value.value, ast.Call) and last_name(value.value).lower() == "field":
        named = _option(value, "default") or _option(value, "default_factory")
        given = value.value.args and ast.unparse(value.value.args[0])
        return named or given or None
    return ast.unparse(value.value)
