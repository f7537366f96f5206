"""Copies of nodes of Dynamo's graph, with what Dynamo noted beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Graph, Node


def copy_node(graph: Graph, node: Node, copies: Mapping[Node, Any]) -> Node:
    """A copy in ``graph``; ``copies`` has those of its operands."""
    copy = graph.node_copy(node, lambda old: copies[old])
    copy.meta = node.meta
    source = getattr(node, "_dynamo_source", None)
    if source is not None:
        copy._dynamo_source = source
    return copy
