"""Probing: decide what a small closed subgraph computes by running it.

Masks and rope tables are spelled anew in every release of transformers. What they may depend on is
fixed, though: positions, shapes and small constants. So the subgraph is evaluated at several
concrete sizes and the values are compared with the definition, which no spelling escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.ir.accounting import note_all
from glmc.ir.match import refuse
from glmc.ir.program import Program


def leaves(root: Node) -> set[Node]:
    """The placeholders that ``root`` depends on."""
    leaves: set[Node] = set()
    seen: set[Node] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder":
            leaves.add(node)
        stack.extend(node.all_input_nodes)
    return leaves


def evaluate(root: Node, known: Mapping[Node, Any]) -> Any:
    """Run the subgraph above ``root`` on real tensors; ``known`` holds values of some nodes.

    Refuses at the first leaf that is not known.
    """
    values: dict[Node, Any] = dict(known)
    stack = [root]
    while stack:
        node = stack[-1]
        if node in values:
            stack.pop()
            continue
        missing = [operand for operand in node.all_input_nodes if operand not in values]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if node.op != "call_function":
            refuse(node, f"the subgraph depends on {node.name}, which no probe knows")
        arguments, keywords = torch.fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda operand: values[operand]
        )
        if keywords.get("device") is not None:
            keywords = {**keywords, "device": torch.device("cpu")}
        note_all(node)
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        try:
            with torch.no_grad():
                values[node] = target(*arguments, **keywords)
        except (RuntimeError, LookupError, TypeError, ValueError, NotImplementedError) as error:
            first = str(error).strip().partition("\n")[0]
            refuse(node, f"the values can't be computed at other sizes: {first}")
    return values[root]


def example_size(size: int | SymInt) -> int:
    """A size, or the example of a symbol: what a program is probed with whose sizes are baked
    in, or hang together."""
    if isinstance(size, SymInt):
        hint = size.node.hint
        if hint is None:
            raise ValueError(f"size {size} has no example")
        return int(hint)
    return size


def example_shape(node: Node) -> tuple[int, ...]:
    """The shape of a node's value with examples for symbols."""
    return tuple(example_size(size) for size in node.meta["val"].shape)


def known_sizes(program: Program) -> dict[Node, int]:
    """Examples of the inputs of a traced program that are sizes."""
    return {
        node: example_size(node.meta["val"])
        for node in program.placeholders()
        if isinstance(node.meta.get("val"), (int, SymInt))
    }


def step_inputs(batch: int, tokens: int, first: int = 0) -> dict[str, Tensor]:
    """token_ids and positions [batch, tokens] for a probe; positions start at ``first``."""
    positions = torch.arange(first, first + tokens).expand(batch, tokens).contiguous()
    return {"token_ids": torch.zeros_like(positions), "positions": positions}
