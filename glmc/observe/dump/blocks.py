"""A program cut into blocks: one for each layer, and what is outside the layers.

A block's lines call its layer by no number, so that layers which do the same read the same: such
layers are folded, which is decided by nothing but the text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.program import Program
from glmc.observe.dump.values import Values, arguments

_LAYER = re.compile(r"^(?:\w+\.)*?layers\.(\d+)(?:\.|(?=[#\[])|$)")
_CACHE = re.compile(r"^(\w+_cache)\.(\d+)$")


@dataclass(frozen=True)
class Block:
    """``lines`` belong to ``nodes``; ``like`` holds the later layers with the same lines.

    ``layer`` is None outside the layers.
    """

    layer: int | None
    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    like: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return "outside" if self.layer is None else f"layer_{self.layer}"


@lru_cache(maxsize=1 << 16)  # each step of a compile prints the ids of the step before it
def relative(text: str, layer: int | None) -> str:
    """An id or weight without its own layer; the layer before is called ``previous``."""
    match = _LAYER.match(text) if layer is not None else None
    if match is not None and layer is not None:
        number, rest = int(match.group(1)), text[match.end() :]
        if number == layer:
            return rest or "layer"
        return f"previous:{rest or 'layer'}" if number == layer - 1 else text
    cache = _CACHE.match(text)
    return cache.group(1) if cache is not None and int(cache.group(2)) == layer else text


def layer_of_node(node: Node) -> int | None:
    """The layer of a node; a cache belongs to the layer whose keys or values it holds."""
    cache = _CACHE.match(str(node.meta.get("input", "")))
    layer = node.meta.get("layer")
    return int(cache.group(2)) if cache else layer if isinstance(layer, int) else None


def node_id(node: Node) -> str:
    """The id; the graph's own name for a node that a broken pass left without."""
    return str(node.meta.get("id") or node.name)


def blocks(program: Program, values: Values, *, fold: bool = True) -> list[Block]:
    """The outside first, then each layer, or the first of each run that reads the same."""
    by_layer: dict[int | None, list[Node]] = defaultdict(list)
    by_layer[None] = []
    for node in program.graph.nodes:
        if node.op != "output":
            by_layer[layer_of_node(node)].append(node)
    lines = {
        layer: tuple(line(node, layer, values) for node in by_layer[layer])
        for layer in in_order(by_layer)
    }
    like = like_layers(lines) if fold else {layer: () for layer in lines}
    return [
        Block(layer, tuple(by_layer[layer]), lines[layer], same) for layer, same in like.items()
    ]


def block_of_layer(program: Program, values: Values, layer: int) -> Block | None:
    """The block of one layer, folded or not; None when the program has no such layer."""
    nodes = [node for node in program.graph.nodes if layer_of_node(node) == layer]
    lines = tuple(line(node, layer, values) for node in nodes)
    return Block(layer, tuple(nodes), lines) if nodes else None


def in_order(layers: Iterable[int | None]) -> list[int | None]:
    """The outside first, then the layers by number."""
    return sorted(layers, key=lambda layer: -1 if layer is None else layer)


def like_layers(
    lines: Mapping[int | None, tuple[str, ...]],
) -> dict[int | None, tuple[int, ...]]:
    """The layers to print, each with the later ones that have the same lines."""
    first: dict[tuple[str, ...], int] = {}
    like: dict[int | None, list[int]] = {}
    for layer in in_order(lines):
        printed = None if layer is None else first.setdefault(lines[layer], layer)
        if printed == layer:
            like[layer] = []
        elif layer is not None:
            like[printed].append(layer)
    return {layer: tuple(same) for layer, same in like.items()}


def line(node: Node, layer: int | None, values: Values) -> str:
    """One node: id, op with operands, shape and dtype, and the module where the id is another's."""
    own = relative(node_id(node), layer)
    shape = values.text(node.meta.get("val"))
    if node.op == "placeholder":
        what = "weight" if "weight" in node.meta else "input"
        return f"{own}  {what}  {shape}"
    operands = arguments(node, lambda item: relative(node_id(item), layer))
    text = f"{own}  {op_name(node) or node.op}({operands})  {shape}"
    module = str(node.meta.get("module") or "")
    if module and not node_id(node).startswith(f"{module}#"):
        text += f"  in {relative(module, layer)}"
    dealt = node.meta.get("dealt")
    return text if dealt is None else f"{text}  {_dealt_text(dealt)}"


def _dealt_text(dealt: object) -> str:
    """What a rank has of a value, as the pass that deals a model has noted it."""
    if not isinstance(dealt, tuple):
        return "(a summand on each rank)"
    axis, layout = dealt
    return f"(of {layout.entries} along dimension {axis}, on {layout.ranks} ranks)"
