"""The short form: one line a node, layers that read the same folded."""

from __future__ import annotations

from collections.abc import Sequence

from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, node_id
from glmc.observe.spans import spans


def program_text(header: Sequence[str], program: Program, made: Sequence[Block]) -> str:
    """The whole file; ``header`` lines become comments."""
    lines = [f"# {line}".rstrip() for line in header]
    lines.append("# id  op(operands)  shape dtype; ids are those of the block's layer")
    for block in made:
        lines.append("")
        lines += block_text(block)
    lines += ["", f"output  {', '.join(_outputs(program))}"]
    return "\n".join(lines) + "\n"


def block_text(block: Block) -> list[str]:
    title = "outside the layers" if block.layer is None else f"layer {block.layer}"
    lines = [f"{title}: {len(block.nodes)} nodes", *(f"  {line}" for line in block.lines)]
    if block.like:
        word = "layers" if len(block.like) > 1 else "layer"
        lines.append(f"{word} {spans(block.like)} like layer {block.layer}")
    return lines


def _outputs(program: Program) -> list[str]:
    output = next((node for node in reversed(program.graph.nodes) if node.op == "output"), None)
    return [node_id(node) for node in output.all_input_nodes] if output is not None else []
