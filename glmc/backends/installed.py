"""Targets of other installed distributions: entry points of the group ``glmc.targets``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from glmc.lowering.target import Target
from glmc_runtime.errors import ExtensionError
from glmc_runtime.package.entry_points import find

TARGETS = "glmc.targets"
LAYOUTS = ("blocks_tokens_heads", "blocks_heads_tokens")
"""What the runtime's cache knows (glmc_runtime/replay/cache.py)."""


def load_target(name: str, reserved: tuple[str, ...]) -> Target | None:
    """The installed target of that name, or None.

    ``reserved`` are the names of glmc's own targets. Raises ExtensionError for one that can't be
    used.
    """
    entry = find(TARGETS, name, reserved)
    if entry is None:
        return None
    loaded = entry.load()
    problem, expected = _problem(loaded, name)
    if problem:
        raise ExtensionError(
            f"'{name}' can't be used as a target: {problem}", place=entry.place, expected=expected
        )
    target: Target = loaded
    return target


def _problem(target: object, name: str) -> tuple[str, str]:
    """(what is wrong, what is expected) of an object that should be a target; '' for nothing."""
    if not isinstance(target, Target):
        kind = target.__name__ if isinstance(target, type) else type(target).__name__
        return f"{kind} is no target", "a glmc.lowering.target.Target"
    if target.name != name:
        return f"its name is {target.name!r}", f"'{name}', the name of the entry point"
    if not are_rules({name: target.rules}):
        return "its rules are no rules", "{op: function(op, emit)}"
    if not target.dtypes or not all(isinstance(dtype, torch.dtype) for dtype in target.dtypes):
        return f"its dtypes are {target.dtypes!r}", "a tuple of torch dtypes"
    if target.cache_layout not in LAYOUTS:
        return f"its cache layout is {target.cache_layout!r}", " or ".join(LAYOUTS)
    return "", ""


def are_rules(rules: object) -> bool:
    """Whether this is {target: {op: rule}}."""
    return isinstance(rules, Mapping) and all(
        isinstance(target, str)
        and isinstance(table, Mapping)
        and all(isinstance(op, str) and callable(rule) for op, rule in table.items())
        for target, table in rules.items()
    )
