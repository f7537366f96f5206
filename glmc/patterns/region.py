"""Regions: the nodes that a rewrite makes superfluous, and whether anybody else reads them."""

from __future__ import annotations

from collections.abc import Collection

from torch.fx import Node

from glmc.ir.match import refuse


def between(starts: Collection[Node], root: Node) -> set[Node]:
    """Nodes on a path from one of ``starts`` to ``root``; the starts left out, the root in."""
    depends: dict[Node, bool] = dict.fromkeys(starts, True)
    earliest = min(starts)
    stack = [root]
    while stack:
        node = stack[-1]
        if node in depends:
            stack.pop()
        elif node.op == "placeholder" or node < earliest:
            depends[node] = False
        elif missing := [operand for operand in node.all_input_nodes if operand not in depends]:
            stack.extend(missing)
        else:
            depends[node] = any(depends[operand] for operand in node.all_input_nodes)
    return {node for node, inside in depends.items() if inside} - set(starts)


def require_private(starts: Collection[Node], root: Node, what: str) -> None:
    """Refuses at an inner node of :func:`between` that something outside reads."""
    region = between(starts, root)
    for node in sorted(region - {root}):
        outside = [user for user in node.users if user not in region]
        if outside:
            refuse(node, f"a value inside the {what} is also read by {outside[0].name}")
