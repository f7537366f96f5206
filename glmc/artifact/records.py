"""JSON data as the records that its annotations describe."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints


def record(value: Any, kind: Any, *, rows: bool = False) -> Any:
    """JSON as ``kind``, where it has that form; what has not stays, for ``misfit`` to find.

    A dataclass is a mapping by field, with ``rows`` also a list of all fields in order. Raises
    KeyError for a field that is missing, TypeError for one that there is not.
    """
    if is_dataclass(kind) and isinstance(value, (dict, list) if rows else dict):
        made: Any = kind
        hints, needed = _fields(made)
        if isinstance(value, list):
            if len(value) != len(hints):
                raise TypeError(f"{len(value)} values of {len(hints)}")
            value = dict(zip(hints, value, strict=True))
        if lost := needed - value.keys():
            raise KeyError(min(lost))
        parts = {
            name: record(item, hints.get(name, Any), rows=rows) for name, item in value.items()
        }
        return made(**parts)
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise ValueError(f"{len(value)} values of {len(kinds)}")
        return tuple(record(item, each, rows=rows) for item, each in zip(value, kinds, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: record(item, args[1], rows=rows) for name, item in value.items()}
    return value


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Annotations by field, and the fields without a default."""
    hints = get_type_hints(kind)
    needed = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return {field.name: hints[field.name] for field in fields(kind)}, needed
