"""Autocast, spelled out: the casts that it makes after every op become nodes of the graph.

What is traced under autocast has results of the lower dtype and no casts, since autocast acts below
the level of the trace. An op whose result has another dtype than the op alone would give had its
operands cast to that dtype (or to the widest): so that is written down, and kernels, which run
without autocast, compute the same. A weight that is cast is a weight of its own, cast once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.fx import Graph, GraphModule, Node

from glmc.ir.match import is_op
from glmc.ir.probe import example_size
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter

NAME = "autocast"
# Products promote nothing: without autocast they refuse operands of two dtypes, or should.
_PRODUCTS = (
    "aten.linear",
    "aten.matmul",
    "aten.mm",
    "aten.bmm",
    "aten.addmm",
    "aten.baddbmm",
    "aten.scaled_dot_product_attention",
    "aten.conv1d",
    "aten.conv2d",
)


def switches(module: GraphModule) -> bool:
    """Whether the program itself turns autocast on or off."""
    return any(node.target is _enter_autocast for node in module.graph.nodes)


def switching(module: GraphModule) -> GraphModule:
    """The same with switches that act while the graph is traced: torch's own are only noted, and
    ops after them would be traced with the wrong dtypes."""
    if not switches(module):
        return module
    graph = Graph()
    copies: dict[Node, Any] = {}
    for node in module.graph.nodes:
        copy = copies[node] = copy_node(graph, node, copies)
        copy.target = {_enter_autocast: _enter, _exit_autocast: _exit}.get(node.target, node.target)
    return GraphModule(module, graph)


def _enter(*arguments: Any) -> torch.autocast:
    device, dtype, enabled, cached = arguments
    switch = torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cached)
    switch.__enter__()
    return switch


def _exit(switch: torch.autocast) -> None:
    switch.__exit__(None, None, None)


@contextmanager
def restored(device: str) -> Iterator[None]:
    """Autocast is afterwards as it was, also where a trace fails between two switches."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def spell_autocast(program: Program, device: str) -> None:
    """Insert the casts of a program that was traced under autocast, or that switches it."""
    rewriter = Rewriter(program, NAME)
    for node in list(program.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        value = node.meta["val"]
        first = value[0] if isinstance(value, (tuple, list)) else value
        if not isinstance(first, Tensor) or not first.dtype.is_floating_point:
            continue
        if not node.all_input_nodes:
            continue
        if not is_op(node, *_PRODUCTS) and _dtype_without_autocast(node, device) == first.dtype:
            continue
        _cast_operands(rewriter, node, first.dtype)
    rewriter.finish()


def _dtype_without_autocast(node: Node, device: str) -> torch.dtype | None:
    """The dtype that the op gives without autocast, or None where it refuses."""
    arguments, keywords = torch.fx.node.map_arg(
        (node.args, dict(node.kwargs)), lambda operand: _example(operand.meta["val"])
    )
    if keywords.get("device") is not None:
        keywords = {**keywords, "device": torch.device("meta")}
    target: Any = node.target
    try:
        with torch.autocast(device, enabled=False), torch.no_grad():
            result = target(*arguments, **keywords)
    except RuntimeError:
        return None
    first = result[0] if isinstance(result, (tuple, list)) else result
    return first.dtype if isinstance(first, Tensor) else None


def _example(value: Any) -> Any:
    """A value without memory, of example sizes."""
    if isinstance(value, Tensor):
        sizes = [example_size(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    return example_size(value) if isinstance(value, SymInt) else value


def _cast_operands(rewriter: Rewriter, node: Node, dtype: torch.dtype) -> None:
    made: dict[Node, Node] = {}
    for operand in node.all_input_nodes:
        value = operand.meta["val"]
        if not isinstance(value, Tensor) or value.dtype == dtype:
            continue
        if not value.dtype.is_floating_point:
            continue
        weight = rewriter.program.weight_of(operand)
        if weight is not None:
            short = str(dtype).removeprefix("torch.")
            cast = replace(weight, name=f"{weight.name}.{short}", dtype=dtype)
            made[operand] = rewriter.weight(cast)
            continue
        with rewriter.graph.inserting_before(node):
            copy = rewriter.graph.call_function(
                torch.ops.aten._to_copy.default, (operand,), {"dtype": dtype}
            )
        with value.fake_mode:  # type: ignore[attr-defined]
            copy.meta["val"] = torch.empty_like(value, dtype=dtype)
        rewriter.describe(copy, (node,))
        copy.meta["id"] = f"{node.meta['id']}.autocast"
        made[operand] = copy
    for old, new in made.items():
        node.replace_input_with(old, new)


def copy_node(graph: Graph, node: Node, copies: Mapping[Node, Any]) -> Node:
    """A copy in ``graph``, with what Dynamo noted beside the node; ``copies`` has those of its
    operands."""
    copy = graph.node_copy(node, lambda old: copies[old])
    copy.meta = node.meta
    source = getattr(node, "_dynamo_source", None)
    if source is not None:
        copy._dynamo_source = source
    return copy
