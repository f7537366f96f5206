"""Running a program, or both halves of a region, on real tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.verify.regions import Region

Values = dict[Node, Any]


def placeholder_values(
    program: Program, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Values:
    """The step inputs by name and the weights by name, for the placeholders of a program."""
    values: Values = {}
    for node in program.placeholders():
        meta = node.meta
        if "weight" in meta:
            values[node] = weights[meta["weight"]]
        elif "input" in meta:
            values[node] = inputs[meta["input"]]
        else:
            raise InternalError(f"placeholder {node.name} is neither an input nor a weight")
    return values


def values_at(program: Program, wanted: Collection[Node], given: Values) -> Values:
    """Run ``program`` and keep the values of ``wanted``; all others are freed after their use."""
    left = Counter(operand for node in program.graph.nodes for operand in node.all_input_nodes)
    left.update(list(wanted))
    values = dict(given)
    missing = set(wanted) - set(values)
    with torch.no_grad():
        for node in program.graph.nodes:
            if not missing:
                break
            if node.op in ("placeholder", "output"):
                continue
            values[node] = call(node, values)
            missing.discard(node)
            for operand in node.all_input_nodes:
                left[operand] -= 1
                if not left[operand]:
                    values.pop(operand, None)
    return {node: values[node] for node in wanted}


def call(node: Node, values: Mapping[Node, Any]) -> Any:
    """One call on the values of its operands."""
    if node.op != "call_function":
        raise InternalError(f"{node.name} is a {node.op} and no call", place=node.name)
    arguments, keywords = torch.fx.node.map_arg(
        (node.args, dict(node.kwargs)), lambda operand: values[operand]
    )
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    return target(*arguments, **keywords)


def borders(regions: Iterable[Region]) -> dict[Node, None]:
    """The nodes of the program before whose values the regions begin with or are compared with."""
    found: dict[Node, None] = {}
    for region in regions:
        for pair in (*region.starts, *region.ends):
            if pair.before.op != "placeholder":
                found[pair.before] = None
    return found


def run_added(region: Region, before: Values, weights: Values) -> list[tuple[Any, Any]]:
    """For each end of a region, its value before the pass and the one the added nodes compute.

    ``before`` holds the values of :func:`borders` and of the placeholders of the program before,
    ``weights`` those of the placeholders of the program after.
    """
    values = dict(weights)
    values.update({pair.after: before[pair.before] for pair in region.starts})
    with torch.no_grad():
        for node in region.added:
            values[node] = call(node, values)
    return [(before[pair.before], values[pair.after]) for pair in region.ends]
