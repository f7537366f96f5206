"""Run a dealt program for all ranks in one process, node by node.

The ranks share the graph; each has its own weights and caches. A collective takes the operands of
all of them, so that no device and no group is needed to prove what a dealt program computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import is_collective, over_ranks
from glmc.ir.program import Program

Values = Mapping[str, Tensor]


def run_ranks(
    program: Program,
    inputs: Sequence[Values],
    weights: Sequence[Values],
    seen: Callable[[Node, list[Any]], None] = lambda node, values: None,
) -> list[tuple[Tensor, ...]]:
    """The outputs of each rank; ``inputs`` (caches included) and ``weights`` are by rank and name.

    ``seen`` is told of each call with its values on all ranks.
    """
    values: dict[Node, list[Any]] = {}
    left = {node: len(node.users) for node in program.graph.nodes}

    def value(node: Node, rank: int) -> Any:
        """Weights are made when they are asked for, and not kept."""
        if "weight" in node.meta:
            return weights[rank][node.meta["weight"]]
        return inputs[rank][node.meta["input"]] if "input" in node.meta else values[node][rank]

    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "output":
                found: Any = [
                    torch.fx.node.map_arg(node.args[0], partial(value, rank=rank))
                    for rank in range(len(weights))
                ]
                return [tuple(each) for each in found]
            if node.op != "call_function":
                continue
            values[node] = call_on_ranks(node, value, len(weights))
            seen(node, values[node])
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    values.pop(used, None)
    raise InternalError("a graph has no output")


def call_on_ranks(node: Node, value: Callable[[Node, int], Any], ranks: int) -> list[Any]:
    """The values of a call on all ranks; ``value`` gives an operand on a rank."""
    op = semantic_op(node.target)
    if op is not None and is_collective(op.name):
        arguments: list[Any] = [
            [value(each, at) for at in range(ranks)] if isinstance(each, Node) else each
            for each in node.args
        ]
        return over_ranks(op.name, arguments[0], arguments[1:])
    target: Any = node.target
    results = []
    for rank in range(ranks):
        on_rank: Callable[[Node], Any] = partial(_swapped, value, rank)
        mapped: Any = torch.fx.node.map_arg((node.args, dict(node.kwargs)), on_rank)
        arguments, keywords = mapped
        results.append(target(*arguments, **keywords))
    return results


def _swapped(value: Callable[[Node, int], Any], rank: int, node: Node) -> Any:
    return value(node, rank)
