"""The source of functions with all that they need of ours, for a file that must do without it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import torch

_PARTS = (bool, int, float, str, torch.dtype)


def inlined(*functions: Callable[..., Any]) -> str:
    """Functions and classes of glmc with the functions, classes and constants that they name,
    each after what it needs. Needs ``torch``, ``math``, ``dataclass`` and ``torch.nn.functional``
    as ``F`` by these names, and annotations that are not evaluated."""
    texts: dict[str, str] = {}
    for function in functions:
        _add(function.__name__, function, texts)
    return "\n\n\n".join(texts.values()).replace("\n\n\n_", "\n\n_") + "\n"


def _add(name: str, item: Any, texts: dict[str, str]) -> None:
    if name in texts:
        return
    if inspect.isclass(item) or inspect.isfunction(item):
        texts[name] = ""  # met already, should it name itself
        for needed, value in _needs(item).items():
            _add(needed, value, texts)
        del texts[name]  # after what it needs
        texts[name] = inspect.getsource(item).rstrip()
    else:
        if _ours(type(item)):
            _add(type(item).__name__, type(item), texts)
        texts[name] = f"{name} = {item!r}"


def _needs(item: Any) -> dict[str, Any]:
    """What a function or a class of ours names in its module: ours, and numbers."""
    members = list(vars(item).values()) if inspect.isclass(item) else [item]
    members += [each.fget for each in members if isinstance(each, property)]
    needed: dict[str, Any] = {}
    for function in filter(inspect.isfunction, members):
        if not function.__module__.startswith("glmc"):
            continue  # made by a decorator
        names = [*_names(function.__code__)]
        needed.update(
            (name, function.__globals__[name])
            for name in names
            if _ours(function.__globals__.get(name))
        )
        for default in function.__defaults__ or ():
            if inspect.isfunction(default):
                needed[default.__name__] = default
    return needed


def _names(code: CodeType) -> list[str]:
    """Of the code and of what is defined in it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return [*code.co_names, *(name for each in inner for name in _names(each))]


def _ours(item: Any) -> bool:
    """Functions and classes of ours, their instances, and what is plain."""
    if isinstance(item, (bool, int, float, str)) or _plain(item):
        return True
    return not isinstance(item, ModuleType) and str(getattr(item, "__module__", None)).startswith(
        "glmc"
    )


def _plain(item: Any) -> bool:
    """Tuples of dtypes and numbers."""
    return isinstance(item, tuple) and all(isinstance(each, _PARTS) for each in item)
