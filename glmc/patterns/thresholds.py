"""The numbers of tokens at which a mask may change, read off its subgraph.

A mask is a function of comparisons of positions. Where only sums and differences stand between
positions and comparisons, each comparison changes at a sum of the numbers in the subgraph, and a
mask that is causal on both sides of each such sum is causal everywhere. Any other op could put a
change where no probe looks, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m

# Signed sums of that many numbers are 81 at most.
_MOST_NUMBERS = 4
_MOVES = (
    *m.CASTS,
    *m.SHAPES,
    *("aten.expand", "aten.slice", "aten.select", "aten.permute", "aten.repeat", "aten.index"),
    *("aten.cat", "aten.stack", "aten.clone"),
)
_SUMS = ("aten.add", "aten.sub", "aten.rsub", "aten.neg")
_COMPARISONS = ("aten.le", "aten.lt", "aten.ge", "aten.gt", "aten.eq", "aten.ne")
_TRIANGLES = ("aten.tril", "aten.triu")
_FILLS = (
    *("aten.full", "aten.ones", "aten.zeros", "aten.scalar_tensor"),
    *("aten.full_like", "aten.ones_like", "aten.zeros_like"),
    *("aten.new_full", "aten.new_ones", "aten.new_zeros"),
)
# Of what comparisons gave, and of scores.
_DECISIONS = (
    *("aten.__and__", "aten.__or__", "aten.__xor__", "aten.bitwise_and", "aten.bitwise_or"),
    *("aten.bitwise_xor", "aten.bitwise_not", "aten.logical_and", "aten.logical_or"),
    *("aten.logical_xor", "aten.logical_not", "aten.where", "aten.masked_fill"),
    *("aten.mul", "aten.div"),
)
_SIZES = ("aten.sym_size", "add", "sub", "mul")
_READ = (*_SUMS, *_COMPARISONS, *_TRIANGLES, *_FILLS, "aten.arange", "aten.slice", "aten.select")


def thresholds(masked: Node, scores: Node | None = None) -> list[float]:
    """Signed sums of the numbers in the subgraph above ``masked``, below the ``scores`` that are
    masked, each with all the ones on top. Refuses where a change may be anywhere else."""
    counting: dict[Node, bool] = {}
    region = _region(masked, scores)
    for node in region:
        counting[node] = node is not scores and _counts(node, counting)
    m.require(not counting[masked], masked, "the mask must be made of comparisons of positions")
    numbers = [number for node in region if node is not scores for number in _numbers(node)]
    larger = [number for number in numbers if number > 1]
    m.require(
        len(larger) <= _MOST_NUMBERS,
        masked,
        f"the mask compares with {len(larger)} numbers, of which at most {_MOST_NUMBERS} can be "
        "probed",
    )
    signed = product((-1, 0, 1), repeat=len(larger))
    sums = {abs(sum(a * b for a, b in zip(signs, larger, strict=True))) for signs in signed}
    ones = sum(number for number in numbers if number <= 1)
    return sorted(each + ones for each in sums)


def _region(root: Node, stop: Node | None) -> list[Node]:
    """The nodes above ``root``, operands before what reads them."""
    region: dict[Node, None] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        missing = [each for each in node.all_input_nodes if each not in region and node is not stop]
        if missing:
            stack.extend(missing)
            continue
        region[stack.pop()] = None
    return list(region)


def _counts(node: Node, counting: dict[Node, bool]) -> bool:
    """Whether the value of ``node`` is made of positions that nothing has compared yet."""
    value = node.meta.get("val")
    if node.op == "placeholder":
        return isinstance(value, Tensor) and not value.is_floating_point()
    if not isinstance(value, Tensor):
        _require(m.is_op(node, *_SIZES), node)
        return False
    if m.is_op(node, "aten.arange"):
        step = m.number(m.argument(node, 2, "step", 1))
        m.require(step == 1, node, "the positions that the mask compares must be neighbours")
        return True
    if m.is_op(node, *_FILLS, *_COMPARISONS) or _is_bool_cast(node):
        return False
    if m.is_op(node, "aten.index"):  # what is picked counts, not the places
        return counting.get(m.operand(node, 0), False)
    counts = any(counting.get(operand) for operand in node.all_input_nodes)
    allowed = (*_MOVES, *_SUMS) if counts else (*_MOVES, *_SUMS, *_TRIANGLES, *_DECISIONS)
    _require(m.is_op(node, *allowed) and _alpha(node) == 1, node)
    return counts


def _alpha(node: Node) -> object:
    """The factor of a sum's second operand, which the schema of some overloads takes by place."""
    return m.argument(node, 2, "alpha", 1) if m.is_op(node, *_SUMS) else 1


def _require(holds: bool, node: Node) -> None:
    m.require(holds, node, f"the mask is computed by {m.op_name(node)}, which no probe covers")


def _is_bool_cast(node: Node) -> bool:
    return m.is_op(node, *m.CASTS) and m.dtype(node) == torch.bool


def _numbers(node: Node) -> Iterator[float]:
    """The numbers that move a change: of sums, comparisons, triangles, fills and slices."""
    if not m.is_op(node, *_READ, "add", "sub"):
        return
    numbers: list[float] = []

    def collect(argument: object) -> object:
        value = m.number(argument)
        if value is not None and abs(float(value)) < 2**31:
            numbers.append(abs(float(value)))
        return argument

    torch.fx.node.map_aggregate((node.args, dict(node.kwargs)), collect)  # type: ignore[arg-type]
    yield from numbers
