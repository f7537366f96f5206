"""Signatures: equal for two subgraphs that compute the same thing of different operands.

The layers of a model repeat each other, and what a probe has found out about the first holds for
all that are spelled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import SymInt
from torch.fx import Node

from glmc.ir.accounting import note_all
from glmc.ir.program import Program

Result = TypeVar("Result")
_KEY = "value_key"  # in the meta of a node


def signature(root: Node, operands: Sequence[Node]) -> Hashable:
    """The spelling of ``root`` in terms of ``operands``, which count by place, dtype and shape.

    Placeholders other than the operands count by identity. A signature is the key of a probe, which
    computes all these nodes or has computed others like them: their arguments count as read.
    """
    numbers: dict[Node, int] = {}
    lines: list[Hashable] = []

    def visit(start: Node) -> None:
        stack = [start]
        while stack:
            node = stack[-1]
            if node in numbers:
                stack.pop()
                continue
            if node in operands:
                lines.append(("operand", operands.index(node), value_key_of(node)))
            elif node.op != "call_function":
                lines.append(("leaf", node.name))
            else:
                missing = [item for item in node.all_input_nodes if item not in numbers]
                if missing:
                    stack.extend(missing)
                    continue
                described = torch.fx.node.map_arg(
                    (node.args, dict(node.kwargs)), lambda item: f"%{numbers[item]}"
                )
                note_all(node)
                lines.append((str(node.target), repr(described)))
            numbers[node] = len(numbers)
            stack.pop()

    visit(root)
    return tuple(lines)


def once(program: Program, key: Hashable, work: Callable[[], Result]) -> Result:
    """``work()``, run once per program and key. A refusal is not kept: it names its own node."""
    if key not in program.memo:
        program.memo[key] = work()
    result: Any = program.memo[key]
    return result  # type: ignore[no-any-return]


def value_key_of(node: Node) -> Hashable:
    """:func:`value_key` of what a node computes; worked out once for each value it gets."""
    value = node.meta["val"]
    known: tuple[object, Hashable] | None = node.meta.get(_KEY)
    if known is None or known[0] is not value:
        known = node.meta[_KEY] = (value, value_key(value))
    return known[1]


def value_key(value: object) -> Hashable:
    """What of a fake value decides what an op makes of it."""
    if isinstance(value, torch.Tensor):
        sizes = tuple(size.node.expr if isinstance(size, SymInt) else size for size in value.shape)
        return (sizes, value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(value_key(item) for item in value)
    if isinstance(value, SymInt):
        return ("symbol", value.node.expr)
    return (type(value).__name__, repr(value))
