"""Ops that treat each token alone, so that tokens of several sequences can be packed.

A semantic op says so where it is defined; its other operands must be weights then. The ATen ops
are those that a lost fusion leaves; each is held to the form in which it can't mix tokens, because
packing makes one dimension of two.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.accounting import given
from glmc.ir.ops import OPS, semantic_op
from glmc.ir.ops.aten import ATEN, aten_facts
from glmc.ir.program import Program


def require_per_token(node: Node, program: Program) -> None:
    """Refuses what may mix tokens: other ops, and known ones with operands that do."""
    op, aten = semantic_op(node.target), aten_facts(m.op_name(node))
    declared = op is not None and op.facts.tokens is not None
    if not declared and aten.tokens is None and not m.is_op(node, "getitem"):
        raise mixes(node, "one of " + ", ".join(_per_token()), m.op_name(node))
    keywords = [key for key in node.kwargs if key not in aten.implied]
    if keywords:
        raise mixes(node, "no keyword", ", ".join(keywords))
    if aten.tokens == "elementwise":
        _require_aligned(node, program)
    elif aten.tokens == "columns":
        _require_columns(node)
    arguments = given(node)
    for name in op.weights if op is not None else ():
        operand = arguments.get(name)
        if isinstance(operand, Node) and program.weight_of(operand) is None:
            raise mixes(node, "a weight of the model as its other operand", operand.name)


def _per_token() -> list[str]:
    own = sorted(f"glmc.{name}" for name, op in OPS.items() if op.facts.tokens is not None)
    return [*own, *sorted(name for name, facts in ATEN.items() if facts.tokens), "getitem"]


def packed_arguments(node: Node) -> tuple[Any, ...]:
    """The arguments of an accepted node with columns counted from the end."""
    if m.is_op(node, "aten.mean"):
        return (node.args[0], [-1], True)
    if m.is_op(node, "aten.slice"):
        return (node.args[0], -1, *node.args[2:])
    return tuple(node.args)


def mixes(node: Node, expected: str, actual: str) -> LoweringError:
    return LoweringError(
        f"kv_cache does not know how {m.op_name(node)} treats packed tokens",
        place=place(node),
        expected=expected,
        found=actual,
        remedy="a pass that should have fused this node missed it; see the report",
    )


def place(node: Node) -> str:
    return f"{node.meta.get('id')} {node.meta.get('source') or ''}".strip()


def _require_aligned(node: Node, program: Program) -> None:
    """Each operand has the tokens where the result has them, or is a weight of a token's own
    dimensions; only those dimensions may broadcast."""
    lead = _leading(node)
    sizes = m.shape(node)
    for operand in node.all_input_nodes:
        others = m.shape(operand)
        if program.weight_of(operand) is not None:
            aligned = len(others) <= len(sizes) - lead
        else:
            aligned = len(others) == len(sizes) and all(
                m.same_size(size, other)
                for size, other in zip(sizes[:lead], others[:lead], strict=True)
            )
        if not aligned:
            shapes = ", ".join(str(tuple(m.shape(each))) for each in node.all_input_nodes)
            expected = "operands with the same token dimensions, and weights of one token"
            raise mixes(node, expected, shapes)


def _require_columns(node: Node) -> None:
    last = len(m.shape(m.operand(node, 0))) - 1
    axis = m.argument(node, 1, "dim")
    if not m.last_axis(m.operand(node, 0), axis) or last < _leading(node):
        raise mixes(node, f"the last dimension, {last}", str(axis))
    if m.is_op(node, "aten.mean") and node.args[2:] != (True,):
        raise mixes(node, "a mean that keeps its dimension", str(node.args[2:]))
    if m.is_op(node, "aten.slice") and len(node.args) != 4:
        raise mixes(node, "neighbouring columns", str(node.args[1:]))


def _leading(node: Node) -> int:
    """How many dimensions hold batch and tokens; they come first, then plain numbers."""
    sizes = m.shape(node)
    lead = sum(not m.is_static(size) for size in sizes)
    if lead not in (1, 2) or any(map(m.is_static, sizes[:lead])):
        raise mixes(node, "batch and tokens first, then fixed sizes", str(tuple(sizes)))
    return lead
