"""A small program cut out of a large one, for a pass that crashes on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.fx import Graph, Node

from glmc.ir.program import Program, graph_module

# Steps from the anchor along edges of the graph; the last cuts hold whole layers.
RADII = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)


def cuts(program: Program, anchor: Node) -> Iterator[Program]:
    """Ever larger pieces around ``anchor``; the last is the whole program."""
    last = 0
    for radius in RADII:
        inside = _around(anchor, radius)
        if len(inside) > last:
            last = len(inside)
            yield cut(program, inside)
    yield program.copy()


def shrunk(program: Program, holds: Callable[[Program], bool]) -> Program:
    """``program`` without the calls that ``holds`` does not need: halves first, then single ones.

    ``holds`` is true of ``program`` and of what is returned.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    size = len(calls) // 2
    while size:
        start = 0
        while start < len(calls) > 1:
            fewer = {*calls[:start], *calls[start + size :]}
            smaller = cut(program, fewer) if fewer else None
            if smaller is not None and holds(smaller):
                calls = calls[:start] + calls[start + size :]
            else:
                start += size
        size //= 2
    return cut(program, set(calls))


def cut(program: Program, inside: set[Node]) -> Program:
    """The calls ``inside``; what they read from elsewhere becomes an input of the same id.

    Everything that something else would have read is an output.
    """
    graph, values = Graph(), {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and any(user in inside for user in node.users):
            values[node] = graph.placeholder(node.name)
            values[node].meta = dict(node.meta)
    calls = [node for node in program.graph.nodes if node in inside]
    for node in calls:
        for operand in node.all_input_nodes:
            if operand not in inside and operand not in values:
                values[operand] = graph.placeholder(operand.name)
                meta = {key: item for key, item in operand.meta.items() if key != "weight"}
                values[operand].meta = {**meta, "input": operand.meta["id"]}
    for node in calls:
        values[node] = graph.node_copy(node, lambda old: values[old])
        values[node].meta = dict(node.meta)
    ends = [
        values[node]
        for node in calls
        if not node.users or any(user not in inside for user in node.users)
    ]
    graph.output(tuple(ends)).meta.update(id="output", module="", layer=None, source=None)
    used = {node.meta["weight"] for node in graph.nodes if "weight" in node.meta}
    weights = {name: weight for name, weight in program.weights.items() if name in used}
    return Program(
        graph_module(graph),
        weights,
        program.model,
        program.dtype,
        program.phase,
        {},
        program.symbols,
    )


def _around(anchor: Node, radius: int) -> set[Node]:
    """The calls at most ``radius`` edges away, in either direction."""
    nodes, border = {anchor}, [anchor]
    for _ in range(radius):
        border = [
            other
            for node in border
            for other in (*node.all_input_nodes, *node.users)
            if other.op == "call_function" and other not in nodes
        ]
        nodes.update(border)
    return nodes
