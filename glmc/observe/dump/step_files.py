"""The files of one step: text, script and record, and on request ONNX and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmc.errors import InternalError, UsageError
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, block_of_layer
from glmc.observe.dump.onnx_model import part_model
from glmc.observe.dump.options import DumpOptions
from glmc.observe.dump.picture import dot_picture, svg_of
from glmc.observe.dump.records import program_record
from glmc.observe.dump.script import script
from glmc.observe.dump.stages import Step
from glmc.observe.dump.text import program_text
from glmc.observe.dump.values import Values
from glmc.pipeline.records import PassRecord

Files = dict[str, str | bytes]


@dataclass(frozen=True)
class Snapshot:
    """A program at one step. ``record`` is what the step's pass did, where one did."""

    step: Step
    program: Program
    values: Values
    blocks: Sequence[Block]
    record: PassRecord | None = None
    suffix: str = ""

    @property
    def label(self) -> str:
        return f"{self.step.label}{self.suffix}"

    def facts(self) -> dict[str, Any]:
        """What the compile did in the step. Times and verdicts have files of their own."""
        record = self.record
        facts: dict[str, Any] = {"step": self.label, "stage": self.step.stage}
        facts |= {"pass": self.step.name, "model": self.program.model.name}
        facts |= {"ranks": self.program.ranks} if self.program.ranks > 1 else {}
        if record is not None:
            facts |= {
                "numerics": record.numerics,
                "nodes_before": record.nodes_before,
                "nodes_after": record.nodes_after,
                "matches": [match.node for match in record.matches],
                "near_misses": [
                    {"node": miss.node, "layer": miss.layer, "condition": miss.condition}
                    | {"source": miss.source}
                    for miss in record.near_misses
                ],
            }
        return facts

    def header(self) -> list[str]:
        """The same in a few lines, for text and scripts."""
        program, record = self.program, self.record
        lines = [f"{self.label}: {program.model.name}, {program.phase}, {self._count()} nodes"]
        if program.ranks > 1:
            lines[0] += f", one of {program.ranks} ranks"
        if record is not None:
            lines.append(
                f"pass {record.name}: {len(record.matches)} matches, "
                f"{len(record.near_misses)} near misses, {record.nodes_before} -> "
                f"{record.nodes_after} nodes; {record.numerics}"
            )
        return lines

    def _count(self) -> int:
        return len(self.program.graph.nodes)


def files_of(snapshot: Snapshot, options: DumpOptions, remarks: list[str]) -> Files:
    """The files by name. What a step can't be written as is said in ``remarks``.

    Raises UsageError when the model lacks the layer to be drawn.
    """
    label, program = snapshot.label, snapshot.program
    made, values, header = snapshot.blocks, snapshot.values, snapshot.header()
    files: Files = {
        f"{label}.txt": program_text(header, program, made),
        f"{label}.json": program_record(snapshot.facts(), program, made, values),
    }
    try:
        files[f"{label}.py"] = script(header, program, made, values)
    except InternalError as error:
        remarks.append(f"{label}.py was not written: {error.message}")
    if options.onnx:
        for block in made:
            if any(node.op != "placeholder" for node in block.nodes):
                files[f"{label}.{block.name}.onnx"] = part_model(block, values)
    if options.picture is not None:
        _draw(snapshot, options.picture, files, remarks)
    return files


def _draw(snapshot: Snapshot, layer: int, files: Files, remarks: list[str]) -> None:
    block = block_of_layer(snapshot.program, snapshot.values, layer)
    if block is None:
        layers = snapshot.program.model.layers
        raise UsageError(
            f"the model has no layer {layer}",
            expected=f"0 to {layers - 1}",
            found=f"--dump-picture {layer}",
            remedy="choose another layer",
        )
    name = f"{snapshot.label}.{block.name}"
    files[f"{name}.dot"] = dot = dot_picture(block, snapshot.values)
    svg = svg_of(dot)
    if isinstance(svg, bytes):
        files[f"{name}.svg"] = svg
    elif (text := f"only .dot files were written, no .svg: {svg}") not in remarks:
        remarks.append(text)
