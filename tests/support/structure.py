"""What a program computes, in text that does not depend on how its nodes came to be.

Two programs that compute the same by the same ops have equal lines, whatever their nodes are
called, in which order they stand and in how many steps a value was reshaped.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Node
from torch.fx.node import map_arg

from glmc.ir import match as m
from glmc.ir.program import Program


def structure(program: Program, roots: Iterable[Node] = ()) -> list[str]:
    """One line for each node that the roots (default: the outputs) depend on, operands first.

    A node is ``%`` and its line; inputs and weights have their names. Sizes stand after reshapes
    only, as the shape of the result.
    """
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    lines: list[str] = []
    names: dict[Node, str] = {}

    def name(node: Node) -> str:
        if node not in names:
            names[node] = _name(node) or _line(node)
        return names[node]

    def _line(node: Node) -> str:
        shape = ""
        if m.is_op(node, *m.SHAPES):
            arguments = name(m.skip(node, m.SHAPES))
            shape = str(tuple(map(str, m.shape(node))))
        else:
            given = map_arg((node.args, dict(node.kwargs)), name)  # type: ignore[arg-type]
            arguments = str(given)
        op = "reshape" if shape else m.op_name(node)
        lines.append(f"{op}({arguments}){shape}")
        return f"%{len(lines) - 1}"

    for root in roots or output.all_input_nodes:
        lines.append(f"-> {name(root)}")
    return lines


def _name(node: Node) -> str:
    """The name of what a step or a checkpoint brings, a size as it is; '' for any other node."""
    if "weight" in node.meta:
        return str(node.meta["weight"])
    if "input" in node.meta:
        return str(node.meta["input"])
    return str(node.meta["val"]) if m.is_op(node, "aten.sym_size") else ""
