"""What each node of a step moves and computes, by the facts of its op.

The floor of a node is what no kernel can avoid: each operand read once, each result written once,
the products of its matrices. What a target's kernels copy between themselves is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir.ops.collectives import is_collective
from glmc.ir.ops.facts import KEYS
from glmc.ir.ops.registry import SemanticOp, semantic_op
from glmc.ir.program import Program
from glmc.ir.recipe import Dealt
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.step_inputs import TABLE

PRODUCT, EXPERTS, ATTENTION, OTHER = "product", "experts", "attention", "other"
KINDS = (PRODUCT, EXPERTS, ATTENTION, OTHER)
"""Kinds of nodes that have constants of their own in the time model."""
COLLECTIVE = "collective"


@dataclass(frozen=True)
class Step:
    """A step of a phase: ``sequences`` with ``new`` tokens each, after which each has ``context``
    tokens in the cache. ``rows`` tokens are computed, those that fill the bucket up included."""

    phase: str
    sequences: int
    new: int
    context: int
    rows: int

    @property
    def real(self) -> float:
        """The share of the rows that are no padding."""
        return self.sequences * self.new / self.rows

    @property
    def mean_keys(self) -> float:
        """Keys that a query attends to on average: itself and what is before it."""
        return self.context - (self.new - 1) / 2


@dataclass(frozen=True)
class Cost:
    """``bytes`` moved and ``flops``, multiplications and additions of matrix products. ``message``:
    bytes that a rank tells the others, of a collective."""

    kind: str
    bytes: float
    flops: float
    message: float = 0.0


def node_cost(node: Node, program: Program, step: Step, block_size: int) -> Cost:
    """The floor of a node in a step.

    Facts count whole blocks of the cache. So the costs without a block and with one are taken, and
    what grows from one to the other grows with the context.
    """
    none, one = (_cost(node, program, step, table) for table in (0, 1))
    # Rows of a decode step are sequences, of which padding has no keys.
    tables = step.real if step.new == 1 else 1.0
    read = step.context / block_size * tables
    seen = step.mean_keys / block_size * step.real
    return with_blocks(none, one, read, seen)


def with_blocks(none: Cost, one: Cost, read: float, seen: float) -> Cost:
    """The cost for ``read`` blocks of each sequence, of which each token attends to ``seen``, from
    those for no block and for one."""
    return Cost(
        none.kind,
        none.bytes + (one.bytes - none.bytes) * read,
        none.flops + (one.flops - none.flops) * seen,
        none.message,
    )


def op_cost(op: SemanticOp, arguments: Sequence[Any], everywhere: Mapping[str, int]) -> Cost:
    """The cost of an op on meta tensors. ``everywhere``: by the name of an operand from which
    tokens choose, the entries that all ranks together have where they are dealt."""
    named = dict(zip(op.argument_names, arguments, strict=True))
    kind = _kind(op)
    moved, computed = op.bytes_accessed(*arguments), float(op.flops(*arguments))
    if kind == COLLECTIVE:
        return Cost(kind, moved, computed, named["x"].nbytes)
    surplus = _never_drawn(op, named, everywhere)
    return Cost(kind, moved - surplus, computed * _share(named, everywhere))


def moved_cost(values: Iterable[Any]) -> Cost:
    """The cost of what is no semantic op: its tensors are read and written."""
    return Cost(OTHER, sum(item.nbytes for item in values if isinstance(item, Tensor)), 0)


def _cost(node: Node, program: Program, step: Step, table: int) -> Cost:
    sequences = step.rows if step.new == 1 else step.sequences
    sizes = {"tokens": step.rows, "sequences": sequences, "blocks": 1, TABLE: table}
    arguments = [_meta(argument, program, sizes) for argument in node.args]
    op = semantic_op(node.target)
    if op is None:
        return moved_cost([*arguments, *_flat(_meta(node, program, sizes))])
    return op_cost(op, arguments, _of_all_ranks(node, op, program))


def _kind(op: SemanticOp) -> str:
    """By facts alone: what is summed over keys attends, what is summed over a weight is a product,
    of experts where an operand chooses among the weights."""
    if is_collective(op.name):
        return COLLECTIVE
    if KEYS in op.facts.summed:
        return ATTENTION
    if not any(name in op.weights for name, _ in op.facts.summed):
        return OTHER
    return EXPERTS if op.facts.chosen else PRODUCT


def _of_all_ranks(node: Node, op: SemanticOp, program: Program) -> dict[str, int]:
    """By the name of an operand from which tokens choose: the entries that all ranks together have
    where they are dealt, those that fill a rank up left out."""
    found = {}
    for name in {name for names in op.facts.chosen.values() for name in names}:
        operand = node.args[op.argument_names.index(name)]
        weight = program.weight_of(operand) if isinstance(operand, Node) else None
        if weight is not None and isinstance(weight.recipe, Dealt) and weight.recipe.axis == 0:
            found[name] = weight.recipe.layout.entries
    return found


def _share(named: Mapping[str, Any], everywhere: Mapping[str, int]) -> float:
    """Of the pairs of tokens and experts, those that are drawn of the rank that has most."""
    return min((named[name].shape[0] / count for name, count in everywhere.items()), default=1.0)


def _never_drawn(op: SemanticOp, named: Mapping[str, Any], everywhere: Mapping[str, int]) -> float:
    """Bytes of experts that no token chooses, of those that the facts count.

    Facts give the most that tokens can choose, all different ones. Here each token draws its own
    evenly: of E experts, T tokens with k each name E (1 - (1 - k / E)^T) on average, and a rank
    that has some of them reads its part. The rank that has most, the first, is what counts.
    """
    surplus = 0.0
    for index, operands in op.facts.chosen.items():
        tokens, top_k = named[index].shape
        for name in operands:
            mine = named[name].shape[0]
            drawn = mine * (1 - (1 - top_k / everywhere.get(name, mine)) ** tokens)
            surplus += (min(tokens * top_k, mine) - drawn) * named[name][0].nbytes
    return surplus


def _flat(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _meta(value: Any, program: Program, sizes: Mapping[str, int]) -> Any:
    """A value of the graph at these sizes, without memory."""
    if isinstance(value, Node):
        return _meta(value.meta["val"], program, sizes)
    if isinstance(value, (tuple, list)):
        return tuple(_meta(item, program, sizes) for item in value)
    if isinstance(value, Tensor):
        shape = [_number(size, program, sizes) for size in value.shape]
        return torch.empty(shape, dtype=value.dtype, device="meta")
    return _number(value, program, sizes) if isinstance(value, SymInt) else value


def _number(size: int | SymInt, program: Program, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    if program.symbols is None:
        raise InternalError("only the steps of a phase have sizes")
    names = program.symbols.names
    values = {symbol: Extent.parse(name).evaluate(sizes) for symbol, name in names.items()}
    return int(size.node.expr.xreplace(values))
