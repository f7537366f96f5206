"""Snapshot of a graph before a rewrite: one that is abandoned leaves nothing behind.

A rewrite may fail midway, and one of another distribution may have edited operands by itself. Kept
are the nodes, their operands and the weights; places and ``meta`` of nodes are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.fx import Node

from glmc.ir.program import Program
from glmc_runtime.errors import ExtensionError


class Snapshot:
    """The nodes of a program with their operands; :meth:`keep` brings it up to date."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._operands: dict[Node, tuple[Any, Any]] = {}
        self._weights = dict(program.weights)
        self.keep(program.graph.nodes)

    def keep(self, nodes: Iterable[Node]) -> None:
        """These nodes are right as they are now, and so are the weights that they read."""
        for node in nodes:
            self._operands[node] = node.args, node.kwargs
            if node.op == "placeholder" and "weight" in node.meta:
                name = node.meta["weight"]
                self._weights[name] = self.program.weights[name]

    def edited(self) -> Node | None:
        """A node whose operands are no longer those that were kept."""
        for node, (arguments, keywords) in self._operands.items():
            if node.args is not arguments or node.kwargs is not keywords:
                return node
        return None

    def restore(self, pass_name: str) -> None:
        """Make the program what it was; ExtensionError when nodes of it are gone."""
        there = dict.fromkeys(self.program.graph.nodes)
        gone = next((node for node in self._operands if node not in there), None)
        if gone is not None:
            raise ExtensionError(
                f"pass '{pass_name}' erased a node of a rewrite that does not stand",
                place=f"node {gone.name}",
                expected="nodes that are replaced through Rewriter.replace, and erased by finish",
                found="a graph that can't be made what it was",
                remedy="leave it to the rewriter to erase what nobody reads any more",
            )
        added = [node for node in there if node not in self._operands]
        # Whatever reads what, nothing reads a new node after this.
        for node in added:
            node.args, node.kwargs = (), {}
        for node, (arguments, keywords) in self._operands.items():
            if node.args is not arguments or node.kwargs is not keywords:
                node.args, node.kwargs = arguments, keywords
                self._operands[node] = node.args, node.kwargs
        for node in added:
            self.program.graph.erase_node(node)
        if self.program.weights != self._weights:
            self.program.weights.clear()
            self.program.weights.update(self._weights)
