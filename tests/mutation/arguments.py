"""The arguments of a call: what stands there, what the schema allows, and other legal values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

Path = tuple[Any, ...]

# Of arguments whose type alone doesn't say which values are legal.
_VALUES: dict[str, tuple[Any, ...]] = {
    "alpha": (2, 0.5),
    "beta": (2,),
    "dtype": (torch.float64, torch.bfloat16),
    "rounding_mode": ("floor", "trunc"),
    "approximate": ("tanh",),
    "dropout_p": (0.25,),
    "scale": (0.5,),
    "dim": (0, 1, -1),
    "max": (1, 3),
    "min": (1,),
    "eps": (0.5,),
    "side": ("right",),
}
_SKIPPED = ("device", "layout", "pin_memory", "memory_format", "generator", "out", "non_blocking")
_DTYPES: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float64, torch.bfloat16),
    torch.int64: (torch.int32, torch.float32),
    torch.int32: (torch.int64,),
    torch.bool: (torch.float32, torch.int64),
}


def literals(node: Node) -> Iterator[tuple[Path, Any]]:
    """Numbers, flags and dtypes with their places: indices and keywords."""

    def walk(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
        if isinstance(value, (bool, int, float, torch.dtype)):
            yield path, value
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from walk((*path, index), item)

    for index, value in enumerate(node.args):
        yield from walk((index,), value)
    for name, value in node.kwargs.items():
        if name not in _SKIPPED:
            yield from walk((name,), value)


def changed(value: Any) -> tuple[Any, ...]:
    """Other values near a literal."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, torch.dtype):
        return _DTYPES.get(value, ())
    if isinstance(value, int):
        news: tuple[Any, ...] = (value + 1, value - 1, value * 2, -value, 0)
    else:
        news = (value * 1.001, value * 2, -value, 0.0, value + 1)
    return tuple(new for new in dict.fromkeys(news) if new != value and new == new)


def keyword_values(node: Node) -> Iterator[tuple[str, Any]]:
    """Arguments of the schema that the call leaves out, with other values than the default."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return
    for place, argument in enumerate(schema.arguments):
        given = place < len(node.args) or argument.name in node.kwargs
        if given or argument.name in _SKIPPED:
            continue
        for value in _legal(argument):
            if value != argument.default_value:
                yield argument.name, value


def _legal(argument: Any) -> tuple[Any, ...]:
    if argument.name in _VALUES:
        return _VALUES[argument.name]
    kind = str(argument.type)
    if "bool" in kind:
        return (True, False) if argument.default_value is None else (not argument.default_value,)
    if "int" in kind and "List" not in kind:
        return (1, 0) if argument.default_value is None else (int(argument.default_value) + 1,)
    if "float" in kind or "number" in kind:
        return (2.0,)
    return ()


def set_argument(node: Node, path: Path, value: Any) -> None:
    """Put ``value`` at ``path`` of a node's arguments."""
    first, *rest = path
    if isinstance(first, str):
        node.kwargs = {**node.kwargs, first: _put(node.kwargs[first], rest, value)}
        return
    arguments = list(node.args)
    arguments[first] = _put(arguments[first], rest, value)
    node.args = tuple(arguments)


def _put(old: Any, path: list[Any], value: Any) -> Any:
    if not path:
        return value
    items = list(old)
    items[path[0]] = _put(items[path[0]], path[1:], value)
    return items
