"""The form for tools: every node with id, op, arguments, value and provenance, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, node_id
from glmc.observe.dump.values import Values, argument, constant

FORMAT = 1


def program_record(
    facts: Mapping[str, Any], program: Program, made: Sequence[Block], values: Values
) -> str:
    """``facts`` of the step, then the blocks with their nodes.

    A node that an operand names as ``{"node": id}``. ``origins`` are the ids at capture that a
    node took the place of, ``passes`` those that touched it, both in order.
    """
    data = {
        "format": FORMAT,
        **facts,
        "phase": program.phase,
        "nodes_in_graph": len(program.graph.nodes),
        "blocks": [
            {
                "name": block.name,
                "layer": block.layer,
                "like": list(block.like),
                "nodes": [_node(node, values) for node in block.nodes],
            }
            for block in made
        ],
    }
    return to_json(data)


def _node(node: Node, values: Values) -> dict[str, Any]:
    meta = node.meta
    kind = "weight" if "weight" in meta else "input" if "input" in meta else node.op
    data: dict[str, Any] = {
        "id": node_id(node),
        "op": op_name(node) or kind,
        "value": values.text(meta.get("val")),
        "module": meta.get("module"),
        "layer": meta.get("layer"),
        "source": meta.get("source"),
        "origins": list(meta.get("origins", (node_id(node),))),
        "passes": list(meta.get("passes", ())),
    }
    if node.op != "placeholder":
        data["args"] = [_argument(item) for item in node.args]
        data["kwargs"] = {key: _argument(item) for key, item in node.kwargs.items()}
        data["users"] = [node_id(user) for user in node.users]
    return data


def _argument(value: Any) -> Any:
    """JSON of an argument; what JSON can't hold becomes its Python spelling."""
    if isinstance(value, Node):
        return {"node": node_id(value)}
    if isinstance(value, (list, tuple)):
        return [_argument(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return {"python": argument(value, node_id, constant)}


def to_json(data: Any) -> str:
    """Indented by one and ended by a newline, as all JSON files of a dump."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
