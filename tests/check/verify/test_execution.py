"""A call on values: what it refuses is its node's error, and memory that it did not get is not."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph, Node

from glmc.check.verify.execution import NodeError, call


def failing(error: Exception) -> Node:
    def target() -> None:
        raise error

    graph = Graph()
    node = graph.call_function(target)
    graph.output(node)
    return node


def test_what_a_call_refuses_is_its_nodes_error() -> None:
    with pytest.raises(NodeError, match="RuntimeError: sizes differ"):
        call(failing(RuntimeError("sizes differ")), {})


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_memory_is_not(error: Exception) -> None:
    with pytest.raises(type(error), match="memory"):
        call(failing(error), {})
