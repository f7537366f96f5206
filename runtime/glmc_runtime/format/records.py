"""Check that a record read from JSON holds what its annotations say.

A manifest or a plan comes from elsewhere: a number where a name belongs must be an error with a
code, not a TypeError far away from its cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def misfit(value: Any, kind: Any, place: str) -> str | None:
    """Where ``value`` is not of ``kind`` and what is there instead; None when it fits.

    Knows what records are made of: dataclasses, tuples of one kind, a pair, dicts by name, unions,
    and plain types. A bool is no int, an int has 64 bits, and a float is finite.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        parts = get_args(kind)
        if type(value) in parts:
            return misfit(value, type(value), place)
        fits = any(misfit(value, part, place) is None for part in parts)
        return None if fits else _wrong(value, kind, place)
    if is_dataclass(kind):
        return _misfit_of_record(value, kind, place)
    if origin is tuple:
        return _misfit_of_tuple(value, kind, place)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            return _wrong(value, kind, place)
        return _first((item, get_args(kind)[1], f"{place}.{name}") for name, item in value.items())
    if kind is Any:
        return None
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return None if fits and _usable(value, kind) else _wrong(value, kind, place)


def _usable(value: Any, kind: Any) -> bool:
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    return kind is not float or isfinite(value)


def _misfit_of_record(value: Any, kind: Any, place: str) -> str | None:
    hints = _hints(kind)
    if type(value) is not kind:
        return _wrong(value, kind, place)
    return _first((getattr(value, name), hint, f"{place}.{name}") for name, hint in hints.items())


def _misfit_of_tuple(value: Any, kind: Any, place: str) -> str | None:
    kinds = get_args(kind)
    if not isinstance(value, tuple):
        return _wrong(value, kind, place)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        return _wrong(value, kind, place)
    return _first(
        (item, part, f"{place}[{number}]")
        for number, (item, part) in enumerate(zip(value, kinds, strict=True))
    )


def _first(parts: Iterable[tuple[Any, Any, str]]) -> str | None:
    misfits = (misfit(value, kind, place) for value, kind, place in parts)
    return next((problem for problem in misfits if problem is not None), None)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _wrong(value: Any, kind: Any, place: str) -> str:
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    shown = repr(value)
    return f"{place} is {shown if len(shown) < 60 else shown[:57] + '...'} and not {name}"
