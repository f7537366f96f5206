from __future__ import annotations

import pytest

from glmc.observe.dump.blocks import block_of_layer, like_layers, relative
from glmc.observe.dump.text import program_text
from glmc.observe.spans import spans
from tests.observe.dump.steps import cut, steps


@pytest.mark.parametrize(
    ("text", "layer", "expected"),
    [
        ("model.layers.3.mlp.gate#topk[1]", 3, "mlp.gate#topk[1]"),
        ("model.layers.3#add.1", 3, "#add.1"),
        ("model.layers.3", 3, "layer"),
        ("model.layers.3#add.1", 4, "previous:#add.1"),
        ("model.layers.3#add.1", 13, "model.layers.3#add.1"),
        ("model.layers.31#add", 3, "model.layers.31#add"),
        ("model.layers.3#add", None, "model.layers.3#add"),
        ("key_cache.12", 12, "key_cache"),
        ("key_cache.12", 1, "key_cache.12"),
        ("lm_head#linear", 0, "lm_head#linear"),
    ],
)
def test_an_id_is_told_from_its_layer(text: str, layer: int | None, expected: str) -> None:
    assert relative(text, layer) == expected


def test_only_equal_lines_are_folded() -> None:
    lines = {None: ("a",), 10: ("b",), 2: ("b",), 3: ("c",), 4: ("b",)}
    assert like_layers(lines) == {None: (), 2: (4, 10), 3: ()}


def test_spans() -> None:
    assert spans((1, 4, 5, 6, 9)) == "1, 4..6, 9"


def test_layers_of_a_mixture_are_folded_behind_the_dense_one() -> None:
    program = steps("glm4_moe")["moe_gate"]
    _, made = cut(program)
    assert [(block.layer, block.like) for block in made] == [(None, ()), (0, ()), (1, (2, 3))]
    _, full = cut(program, fold=False)
    assert [block.layer for block in full] == [None, 0, 1, 2, 3]
    count = sum(len(block.nodes) for block in full)
    assert count == sum(node.op != "output" for node in program.graph.nodes)


def test_one_different_constant_is_not_folded() -> None:
    program = steps("glm4_moe")["moe_gate"].copy()
    gates = [node for node in program.graph.nodes if str(node.target) == "glmc.moe_gate.default"]
    assert len(gates) == 3
    gates[1].update_arg(9, 3.0)
    _, made = cut(program)
    assert [(block.layer, block.like) for block in made][2:] == [(1, (3,)), (2, ())]


def test_ids_are_unique_in_every_step() -> None:
    for name, program in steps("glm4_moe").items():
        ids = [node.meta["id"] for node in program.graph.nodes]
        assert len(ids) == len(set(ids)), name


def test_text_names_id_op_shape_and_module() -> None:
    program = steps("glm4_moe")["qkv_merge"]
    _, made = cut(program)
    text = program_text(["007"], program, made)
    assert "layers 2..3 like layer 1" in text
    assert "  token_ids  input  [batch, length] int64" in text
    linear = "self_attn.qkv_proj#linear  glmc.linear(input_layernorm#rsqrt, "
    line = next(line for line in text.splitlines() if line.strip().startswith(linear))
    assert line.endswith("[batch, length, 128] float32  in self_attn.q_proj")
    assert text.endswith("output  lm_head#linear\n")


def test_a_node_without_id_is_shown_by_its_name() -> None:
    program = steps("glm4_moe")["clean"].copy()
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    node.meta = {"val": node.meta["val"]}
    _, made = cut(program)
    assert node.name in program_text([], program, made)


def test_one_layer_by_number() -> None:
    program = steps("glm4_moe")["decode"]
    values, _ = cut(program)
    block = block_of_layer(program, values, 3)
    assert block is not None and any("moe_gate" in line for line in block.lines)
    assert block_of_layer(program, values, 4) is None
