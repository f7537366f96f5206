"""A block as a function: what it reads from elsewhere, what it computes, what it hands on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from keyword import iskeyword

from torch.fx import Node

from glmc.observe.dump.blocks import Block, node_id, relative


@dataclass(frozen=True)
class Part:
    """``names`` gives each node of ``inputs`` and ``calls`` a name that is unique in the part."""

    name: str
    layer: int | None
    inputs: tuple[Node, ...]
    calls: tuple[Node, ...]
    outputs: tuple[Node, ...]
    names: dict[Node, str]


def part_of(block: Block) -> Part:
    """The function of a block; values of other blocks become its inputs."""
    calls = tuple(node for node in block.nodes if node.op != "placeholder")
    inside = set(calls)
    read = dict.fromkeys(item for node in calls for item in node.all_input_nodes)
    inputs = tuple(node for node in read if node not in inside)
    outputs = tuple(
        node
        for node in calls
        if not node.users or any(user not in inside or user.op == "output" for user in node.users)
    )
    names = names_of((*inputs, *calls), block.layer)
    return Part(block.name, block.layer, inputs, calls, outputs, names)


def names_of(nodes: Iterable[Node], layer: int | None) -> dict[Node, str]:
    """A Python name for each node, by its id as its ``layer`` calls it."""
    names: dict[Node, str] = {}
    taken: set[str] = {"torch", "operator", "float", "slice"}
    for node in nodes:
        plain = identifier(relative(node_id(node), layer))
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names[node] = name
    return names


def identifier(text: str) -> str:
    """``mlp.gate#topk[1]`` as a Python name: ``mlp_gate_topk_1``."""
    name = re.sub(r"\W+", "_", text).strip("_")
    return f"value_{name}" if not name or name[0].isdigit() or iskeyword(name) else name
