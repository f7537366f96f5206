"""Accounting: no argument of a node that a rewrite takes may have gone unread.

Matchers read arguments through the accessors of match.py, which note each in the log of the
attempt. Before the rewrite stands, every node that it stands for is gone through by its op's
schema: an argument that nobody read and that is not the default is a refusal, so a matcher which
forgets one refuses what it doesn't know instead of losing it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import SymInt
from torch.fx import Node

# What only moves numbers is said by the shapes of its operand and of its result.
LAYOUT = frozenset(
    f"aten.{name}"
    for name in "reshape view _unsafe_view unsqueeze squeeze expand flatten unflatten".split()
)
# What does nothing at most values: to have computed it on some says nothing of the others.
_AT_SOME_VALUES = frozenset(
    f"aten.{name}"
    for name in "clamp clamp_min clamp_max minimum maximum hardtanh threshold nan_to_num "
    "remainder fmod".split()
)
# What changes no number: the place and layout of a result in memory.
_OF_MEMORY = frozenset(
    "device layout pin_memory memory_format non_blocking copy requires_grad implicit".split()
)


@dataclass(frozen=True)
class Parameter:
    """One argument of a schema; ``default`` counts when ``optional``. ``whole``: of an integer,
    as sizes are, or of a list of them."""

    name: str
    optional: bool = False
    default: Any = None
    whole: bool = False


@dataclass
class Log:
    """The arguments that one attempt has read, by node and name."""

    read: set[tuple[Node, str]] = field(default_factory=set)


_LOG: ContextVar[Log | None] = ContextVar("log", default=None)
_ITEM = (Parameter("self"), Parameter("index"))


@contextmanager
def accounting() -> Iterator[Log]:
    """A log for one attempt."""
    log = Log()
    token = _LOG.set(log)
    try:
        yield log
    finally:
        _LOG.reset(token)


def note(node: Node, *names: str) -> None:
    """The attempt has read these arguments of a node, or knows that they can't matter."""
    log = _LOG.get()
    if log is not None:
        log.read.update((node, name) for name in names)


def note_all(node: Node) -> None:
    """The attempt has computed the node, with all its arguments; a limit, which it may not have
    met, is for the matcher to read."""
    if _LOG.get() is not None and _op_name(node) not in _AT_SOME_VALUES:
        note(node, *given(node))


@cache
def parameters(target: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The arguments of an op in their order; none where no schema says."""
    if target is operator.getitem:
        return _ITEM
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    return tuple(
        Parameter(each.name, each.has_default_value(), each.default_value, _whole(each.type))
        for each in target._schema.arguments
    )


@cache
def names_of(target: Callable[..., Any]) -> tuple[str, ...]:
    """The names of :func:`parameters`."""
    return tuple(each.name for each in parameters(target))


def _whole(kind: object) -> bool:
    return str(kind).replace("List[", "").replace("Optional[", "").rstrip("]") in ("int", "SymInt")


def given(node: Node) -> Mapping[str, Any]:
    """The arguments of a call by name, however they were passed; defaults are left out."""
    names, values = names_of(node.target), node.args
    known = dict(zip(names, values, strict=False))
    for index in range(len(names), len(values)):
        known[str(index)] = values[index]
    return {**known, **node.kwargs} if node.kwargs else known


def unread(roots: Collection[Node], starts: Collection[Node], log: Log) -> tuple[Node, str] | None:
    """The first node between ``roots`` and ``starts`` with an argument that nobody read, and what
    is to be said of it; sizes and what only moves numbers are no arguments here."""
    stack, seen = list(roots), set(starts) - set(roots)
    while stack:
        node = stack.pop()
        if node in seen or node.op != "call_function" or _is_size(node):
            continue
        seen.add(node)
        defaults = {each.name: each.default for each in parameters(node.target) if each.optional}
        for name, value in given(node).items():
            if (node, name) in log.read or name in _OF_MEMORY:
                continue
            if name in defaults and _equal(value, defaults[name]):
                continue
            if _only_moves(node) and not isinstance(value, Node):
                continue
            if isinstance(value, Node) and _is_size(value):
                continue
            return node, f"argument '{name}' = {value} of {_op_name(node)} is not read by this pass"
        stack.extend(node.all_input_nodes)
    return None


def _is_size(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (SymInt, int))


def _equal(value: object, default: object) -> bool:
    """``alpha=1.0`` is the default 1; a node is no constant."""
    if isinstance(value, Node) or isinstance(default, Node):
        return False
    return (type(value) is type(default) and value == default) or _same_number(value, default)


def _same_number(value: object, default: object) -> bool:
    numbers = isinstance(value, (int, float)) and isinstance(default, (int, float))
    return numbers and not isinstance(value, bool) and value == default


def _only_moves(node: Node) -> bool:
    """A view as another dtype holds other numbers."""
    return _op_name(node) in LAYOUT and node.target is not torch.ops.aten.view.dtype


def _op_name(node: Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.replace("::", ".")
    return getattr(target, "__name__", str(target))
