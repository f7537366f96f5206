"""A plugin for pytest: each graph of ``quick_functional.py`` is held against torch's own trace.

``pytest -p tests.support.checked_functional``; a graph that differs fails the test that traced it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from tests.support import quick_functional
from tests.support.quick_functional import functional_graph

TRACE = ExportedProgram.run_decompositions
_compared: list[int] = []


def pytest_configure() -> None:
    quick_functional.functional_graph = _checked


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"{len(_compared)} graphs are those of torch's own trace")


def _checked(program: ExportedProgram) -> Graph:
    graph = functional_graph(program)
    assert_same_graph(graph, TRACE(program, {}).graph_module.graph)
    _compared.append(len(graph.nodes))
    return graph


def assert_same_graph(quick: Graph, torchs: Graph) -> None:
    """The same calls on the same values, whatever their order and names."""
    left, right = _calls(quick), _calls(torchs)
    assert left.keys() == right.keys(), "\n".join(
        sorted(f"quick: {left[key]}" for key in left.keys() - right.keys())
        + sorted(f"torch: {right[key]}" for key in right.keys() - left.keys())
    )


def _calls(graph: Graph) -> dict[Any, str]:
    """What the outputs need, a number for each value; assertions and sizes' own nodes aside."""
    keys: dict[Node, Any] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            keys[node] = _number(value.node.expr)
            continue
        form: Any = None
        if isinstance(value, torch.Tensor):
            # Strides are compared as numbers: one trace may write Min(a, 2 * a) for a.
            strides = [
                size.node.hint if isinstance(size, torch.SymInt) else size
                for size in value.stride()
            ]
            form = (
                tuple(map(str, value.shape)),
                str(value.dtype),
                str(value.device),
                tuple(strides),
            )
        target = node.name if node.op == "placeholder" else str(node.target)
        keys[node] = hash((node.op, target, _key(node.args, keys), _key(node.kwargs, keys), form))
    needed, todo = set(), [node for node in graph.nodes if node.op == "output"]
    while todo:
        node = todo.pop()
        if node not in needed and not isinstance(node.meta.get("val"), torch.SymInt):
            needed.add(node)
            todo += node.all_input_nodes
    return {keys[node]: node.format_node() or "output" for node in needed}


def _key(value: Any, keys: dict[Node, Any]) -> Any:
    if isinstance(value, Node):
        return keys[value]
    if isinstance(value, (tuple, list)):
        return tuple(_key(part, keys) for part in value)
    if isinstance(value, dict):
        return tuple((name, _key(part, keys)) for name, part in sorted(value.items()))
    return _number(value)


def _number(value: Any) -> str:
    return f"{value!r}" if isinstance(value, float) else str(value)
