"""Ops that treat each token alone, so that tokens of several sequences can be packed.

The semantic ops do by definition, when their other operands are weights; an op that is
not named here says so where it is defined (``token_operands``). The ATen ops are those
that a lost fusion leaves behind; each is held to the form in which it can't mix tokens, because
packing makes one dimension of two.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.ops import semantic_op
from glmc.ir.program import Program

_TWO = ("aten.add", "aten.mul")
_ONE = ("aten.silu", "aten.rsqrt", "aten.pow", "aten._to_copy")
_COLUMNS = ("aten.mean", "aten.slice")
PER_TOKEN = (
    "glmc.embedding",
    "glmc.linear",
    "glmc.rms_norm",
    "glmc.add_rms_norm",
    "glmc.swiglu",
    "glmc.silu_mul",
    "glmc.moe_gate",
    "glmc.moe_ffn",
    "glmc.shared_expert",
    "getitem",
    *_TWO,
    *_ONE,
    *_COLUMNS,
)
# What of an op's operands follows the tokens; all others must be weights of the model.
_TOKEN_OPERANDS = {
    "glmc.embedding": (0,),
    "glmc.linear": (0,),
    "glmc.rms_norm": (0,),
    "glmc.add_rms_norm": (0, 1),
    "glmc.moe_gate": (0,),
    "glmc.moe_ffn": (0, 1, 2),
    "glmc.shared_expert": (0, 3),
}
_KEYWORDS = {"aten._to_copy": ("dtype",)}


def require_per_token(node: Node, program: Program) -> None:
    """Refuses what may mix tokens: other ops, and known ones with operands that do."""
    op = semantic_op(node.target)
    declared = op.token_operands if op is not None else None
    if not m.is_op(node, *PER_TOKEN) and declared is None:
        raise mixes(node, "one of " + ", ".join(PER_TOKEN), m.op_name(node))
    keywords = [key for key in node.kwargs if key not in _KEYWORDS.get(m.op_name(node), ())]
    if keywords:
        raise mixes(node, "no keyword", ", ".join(keywords))
    if m.is_op(node, *_TWO, *_ONE):
        _require_aligned(node, program)
    elif m.is_op(node, *_COLUMNS):
        _require_columns(node)
    operands = _TOKEN_OPERANDS.get(m.op_name(node), declared)
    for index, operand in enumerate(node.args if operands is not None else ()):
        if not isinstance(operand, Node) or index in (operands or ()):
            continue
        if program.weight_of(operand) is None:
            raise mixes(node, "a weight of the model as its other operand", operand.name)


def packed_arguments(node: Node) -> tuple[Any, ...]:
    """The arguments of an accepted node with columns counted from the end."""
    if m.is_op(node, "aten.mean"):
        return (node.args[0], [-1], True)
    if m.is_op(node, "aten.slice"):
        return (node.args[0], -1, *node.args[2:])
    return tuple(node.args)


def mixes(node: Node, expected: str, found: str) -> LoweringError:
    return LoweringError(
        f"kv_cache does not know how {m.op_name(node)} treats packed tokens",
        place=place(node),
        expected=expected,
        found=found,
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
            raise mixes(node, "operands whose tokens lie alike, and weights of one token", shapes)


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
