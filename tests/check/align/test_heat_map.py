"""Cells, rows and columns of the maps of an alignment."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from glmc.check.align.heat_map import Cell, StepMap, error_of, op_text, step_maps
from glmc.check.align.result import Alignment, Verdict
from tests.check.align.alignments import alignment, difference, layer_values, value


def cells(step: StepMap) -> list[Cell]:
    inside = [cell for row in step.rows for cell in row.cells if cell is not None]
    return [*step.before, *inside, *step.after]


def test_every_value_has_one_cell() -> None:
    made = alignment()
    numbers = [cell.number for step in step_maps(made) for cell in cells(step)]
    assert numbers == list(range(len(made.values)))


def test_layers_by_ops_in_order_of_execution() -> None:
    prefill, decode = step_maps(alignment())
    assert (prefill.title, decode.title) == ("prefill", "decode 1")
    assert prefill.columns == (
        "input_layernorm",
        "self_attn.rope_decode_attention",
        "mlp.gate",
        "mlp.gate output 1",
        "mlp",
    )
    assert [cell.text for cell in prefill.before] == ["model.embed_tokens"]
    assert [cell.text for cell in prefill.after] == ["lm_head"]
    assert [[cell.mark if cell else None for cell in row.cells] for row in prefill.rows] == [
        ["·", "·", None, None, "?"],
        ["·", "O", "·", "·", "·"],
        ["·", "·", "·", "·", "FN"],
    ]
    assert prefill.counts == "15 values: 1 own, 1 fail, 1 unknown, 12 ok"


def test_own_error_goes_by_its_bound_and_other_error_by_the_magnitude() -> None:
    norm, attention, *_ = layer_values(0, 0)
    assert error_of(attention).words == "0.2 of the bound" and error_of(attention).heat == 2
    assert error_of(norm).words == "1e-05 of the magnitude" and error_of(norm).heat == 1
    no_bound = replace(attention, bound=None)
    assert error_of(no_bound).words == "0.002 of the magnitude", "own error, not the total"


@pytest.mark.parametrize(
    ("largest", "bound", "heat"),
    [(0.0, 0.0, 0), (0.1, 1.0, 1), (1.0, 1.0, 3), (1.1, 1.0, 4), (11.0, 1.0, 5), (1e-9, 0.0, 5)],
)
def test_heat(largest: float, bound: float, heat: int) -> None:
    made = value("a", own=difference(largest), bound=bound)
    assert error_of(made).heat == heat


def test_what_is_not_known_has_no_heat() -> None:
    error = error_of(value("a", total=difference(rmse=math.nan)))
    assert error.heat is None and error.words == "error not known"


def test_addresses_are_of_nodes_where_one_value_has_the_node() -> None:
    prefill, decode = step_maps(alignment())
    _, attention, first, second, _ = decode.rows[1].cells
    assert attention is not None and first is not None and second is not None
    assert attention.address == "#node=model.layers.1.self_attn%23attention&step=1"
    assert first.address.startswith("#node=model.layers.1.mlp.gate%23topk&name=model.layers.1.mlp")
    assert first.address != second.address
    everything = [cell.address for step in (prefill, decode) for cell in cells(step)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    ("name", "layer", "text"),
    [
        ("model.layers.3.self_attn.q_proj.Linear.0.forward_output.0", 3, "self_attn.q_proj"),
        ("model.layers.3.Glm4MoeDecoderLayer.0.forward_input.0", 3, "layer input 0"),
        ("model.layers.3.mlp.Linear.2.forward_output.0", 3, "mlp"),
        ("model.layers.3.mlp.add.2.forward_output.0", 3, "mlp.add call 2"),
        ("model.norm.RMSNorm.0.forward_params.weight", None, "model.norm parameter weight"),
        ("l3.layers_3_out", 3, "l3.layers_3_out"),
        ("model.layers.3.4.Linear.0.forward_output.0", 4, "layer"),
    ],
)
def test_names_are_relative_to_the_layer(name: str, layer: int | None, text: str) -> None:
    assert op_text(value(name, layer=layer)) == text


def test_values_of_one_text_do_not_hide_each_other() -> None:
    some = [value(f"model.layers.0.{name}.0.forward_output.0", layer=0) for name in ("A", "B")]
    made = replace(alignment(), values=tuple(some))
    (step,) = step_maps(made)
    assert step.columns == ("layer", "layer (2)")
    assert [cell.number for cell in cells(step)] == [0, 1]


def test_a_layer_has_its_cell_in_the_column_of_the_others() -> None:
    """torch_xray counts the instances of a class over all layers."""
    names = [f"model.layers.{layer}.Glm4DecoderLayer.{layer}.forward_output.0" for layer in (0, 1)]
    some = [value(name, layer=layer) for layer, name in enumerate(names)]
    (step,) = step_maps(replace(alignment(), values=tuple(some)))
    assert step.columns == ("layer",)
    assert [[cell is not None for cell in row.cells] for row in step.rows] == [[True], [True]]


def test_inherited_error_has_a_look_of_its_own_and_is_counted() -> None:
    some = (
        value("a", layer=0, verdict=Verdict.OWN),
        value("b", layer=0, reason="inherited"),
        value("c", layer=0, reason="inherited by another choice of experts"),
        value("d", layer=0),
    )
    (step,) = step_maps(replace(alignment(), values=some))
    assert step.counts == "4 values: 1 own, 2 inherited, 1 ok"
    marks = [(cell.mark, cell.verdict) for cell in step.rows[0].cells if cell is not None]
    assert marks == [("O", "own"), ("I", "inherited"), ("I", "inherited"), ("·", "ok")]


def test_an_empty_alignment_has_no_map() -> None:
    empty = Alignment("a", "b", ({}, {}), (), ((), ()))
    assert step_maps(empty) == ()


def test_a_file_without_phases() -> None:
    bare = replace(alignment(), values=(value("x", step=2, phase="", verdict=Verdict.UNKNOWN),))
    (step,) = step_maps(bare)
    assert step.title == "step 2" and step.counts == "1 value: 1 unknown"
