"""ONNX files are checked by onnx, and hold the names, edges and attributes of the program."""

from __future__ import annotations

import onnx
import pytest

from glmc.observe.dump.onnx_model import Builder, part_model
from glmc.observe.dump.parts import part_of
from tests.observe.dump.steps import cut, steps


@pytest.mark.parametrize(
    "family",
    ["glm4_moe", *(pytest.param(each, marks=pytest.mark.slow) for each in ("glm", "glm4"))],
)
def test_every_step_passes_the_checker_and_repeats_itself(family: str) -> None:
    for program in steps(family).values():
        values, made = cut(program)
        for block in made:
            data = part_model(block, values)
            onnx.checker.check_model(data)
            assert data == part_model(block, values)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_nodes_are_those_of_the_program(phase: str) -> None:
    values, made = cut(steps("glm4_moe")[phase])
    part = part_of(made[-1])
    model = Builder(part, values).model()
    calls = [node for node in part.calls if "getitem" not in str(node.target)]
    assert len(model.graph.node) == len(calls)
    assert {node.domain for node in model.graph.node} <= {"glmc", "aten"}
    written = {name for node in model.graph.node for name in node.output}
    read = {name for node in model.graph.node for name in node.input if name}
    assert read <= written | {each.name for each in model.graph.input}
    assert {each.name for each in model.graph.output} <= written


def test_a_node_has_its_arguments_and_its_place() -> None:
    values, made = cut(steps("glm4_moe")["decode"])
    model = Builder(part_of(made[-1]), values).model()
    gate = next(node for node in model.graph.node if node.op_type == "moe_gate")
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in gate.attribute}
    assert gate.domain == "glmc"
    assert attributes["top_k"] == 2 and attributes["scale"] == 2.5 and attributes["normalize"] == 1
    assert "layers." in gate.doc_string and "modeling_glm4_moe.py" in gate.doc_string
