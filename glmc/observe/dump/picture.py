"""One layer as a graph that reads from top to bottom: DOT, and SVG where Graphviz is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from glmc.ir.match import op_name
from glmc.observe.dump.blocks import Block, node_id, relative
from glmc.observe.dump.parts import Part, part_of
from glmc.observe.dump.values import Values, dtype_name

if TYPE_CHECKING:
    import networkx

_SECONDS = 60  # for Graphviz; a layer takes it about one
_FILLS = {"input": "#e8eef7", "weight": "#f2f2f2", "glmc": "#dcf0dc", "other": "#ffffff"}


def layer_graph(block: Block, values: Values) -> networkx.DiGraph:
    """The calls of a block and what they read; nodes are ids with ``label`` and ``kind``."""
    import networkx

    part = part_of(block)
    graph = networkx.DiGraph()
    for node in (*part.inputs, *part.calls):
        kind = _kind(node, part)
        graph.add_node(part.names[node], label=_label(node, block.layer, values), kind=kind)
    for node in part.calls:
        for operand in node.all_input_nodes:
            value = operand.meta.get("val")
            dtype = dtype_name(value.dtype) if isinstance(value, torch.Tensor) else ""
            graph.add_edge(part.names[operand], part.names[node], label=dtype)
    return graph


def dot_picture(block: Block, values: Values) -> str:
    """The block in the DOT language, one node or edge a line."""
    graph = layer_graph(block, values)
    lines = [f'digraph "{block.name}" {{', "  rankdir=TB;"]
    lines.append('  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];')
    for name, data in graph.nodes(data=True):
        fill = _FILLS[data["kind"]]
        lines.append(f'  "{name}" [label="{_quoted(data["label"])}", fillcolor="{fill}"];')
    for source, target, data in graph.edges(data=True):
        label = f' [label="{data["label"]}", fontsize=8]' if data["label"] else ""
        lines.append(f'  "{source}" -> "{target}"{label};')
    return "\n".join([*lines, "}"]) + "\n"


def svg_of(dot: str) -> bytes | str:
    """The SVG of a picture, or as text the reason why there is none."""
    program = shutil.which("dot")
    if program is None:
        return "the program 'dot' of Graphviz is not installed"
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=dot.encode(), capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"'dot' took more than {_SECONDS} seconds"
    except OSError as error:
        return f"'dot' can't be run: {error}"
    if done.returncode:
        return f"'dot' failed: {done.stderr.decode(errors='replace').strip()}"
    return done.stdout


def _kind(node: Node, part: Part) -> str:
    if node in part.inputs:
        return "weight" if "weight" in node.meta else "input"
    return "glmc" if op_name(node).startswith("glmc.") else "other"


def _label(node: Node, layer: int | None, values: Values) -> str:
    meta: Mapping[str, object] = node.meta
    first = op_name(node) if node.op == "call_function" else ""
    own = relative(node_id(node), layer)
    return "\n".join(line for line in (first, own, values.text(meta.get("val"))) if line)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
