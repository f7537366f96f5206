"""Tensors are paired by what is certain first; what is ambiguous is listed, and never guessed."""

from __future__ import annotations

import pytest
import torch

from glmc.check.align.pairing import KEY, MODULE, NODE, ORDER, Pairing, paired
from tests.check.align.memory_record import MemoryRecord

LAYER = "model.layers.0"


def record(*rows: tuple[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> MemoryRecord:
    made = MemoryRecord()
    for key, shape in rows:
        made.add(key, torch.zeros(shape, dtype=dtype))
    return made


def pairs(found: Pairing) -> list[tuple[str, str, str]]:
    return [(each.name, each.other_name, each.paired_by) for each in found.pairs]


def left(found: Pairing) -> tuple[list[str], list[str]]:
    first, second = ([str(each.key) for each in side] for side in found.unpaired)
    return first, second


def run(
    expected: MemoryRecord, actual: MemoryRecord, lengths: tuple[int, ...] | None = (5,)
) -> Pairing:
    return paired(expected.tensors(), actual.tensors(), lengths)


def test_one_node_is_one_value_whatever_it_is_called() -> None:
    expected, actual = MemoryRecord(), MemoryRecord()
    expected.add(f"{LAYER}.mlp.silu_mul.0.forward_output.0", torch.zeros(5, 8), node="layers.0.m")
    actual.add(f"{LAYER}.mlp.swiglu.0.forward_output.0", torch.zeros(5, 8), node="layers.0.m")
    found = run(expected, actual)
    assert [each[2] for each in pairs(found)] == [NODE]
    assert left(found) == ([], [])


def test_the_keys_and_the_columns_of_one_node_are_told_apart() -> None:
    expected, actual = MemoryRecord(), MemoryRecord()
    for side in (expected, actual):
        for number, name in enumerate("qkv"):
            key = f"{LAYER}.self_attn.{name}_proj.Linear.0.forward_output.0"
            side.add(key, torch.zeros(5, 8), node="n", columns=[8 * number, 8 * number + 8])
        side.add(f"{LAYER}.a.Norm.0.forward_output.0", torch.zeros(5, 8), node="m")
        side.add(f"{LAYER}.b.Linear.0.forward_input.0", torch.zeros(5, 8), node="m")
    actual.recorded.reverse()
    found = run(expected, actual)
    assert len(found.pairs) == 5
    assert all(name == other for name, other, _ in pairs(found))


def test_one_key_is_one_value_in_both_layouts() -> None:
    key = f"{LAYER}.mlp.Mlp.0.forward_output.0"
    found = run(record((key, (1, 5, 8))), record((key, (5, 8))))
    assert pairs(found) == [(key, key, KEY)]


def test_one_key_of_another_shape_or_kind_of_number_is_not_one_value() -> None:
    key = f"{LAYER}.mlp.gate.Router.0.forward_output.0"
    assert not run(record((key, (5, 16))), record((key, (5, 4)))).pairs
    other = record((key, (5, 16)), dtype=torch.int64)
    assert not run(record((key, (5, 16))), other).pairs


def test_modules_of_other_names_and_classes_are_paired_by_their_place() -> None:
    expected = record(
        (f"{LAYER}.input_layernorm.Norm.0.forward_output.0", (1, 5, 8)),
        (f"{LAYER}.post_attention_layernorm.Norm.1.forward_output.0", (1, 5, 8)),
        (f"{LAYER}.self_attn.o_proj.Linear.0.forward_input.0", (1, 5, 8)),
        (f"{LAYER}.self_attn.o_proj.Linear.0.forward_output.0", (1, 5, 8)),
        (f"{LAYER}.self_attn.o_proj.Linear.0.forward_params.weight", (8, 8)),
    )
    other = "transformer.encoder.layers.0"
    actual = record(
        (f"{other}.input_layernorm.RMSNorm.0.forward_output.0", (5, 8)),
        (f"{other}.post_attention_layernorm.OtherNorm.0.forward_output.0", (5, 8)),
        (f"{other}.self_attention.dense.RowParallelLinear.0.forward_input.0", (5, 8)),
        (f"{other}.self_attention.dense.RowParallelLinear.0.forward_output.0", (5, 8)),
        (f"{other}.self_attention.dense.RowParallelLinear.0.forward_params.weight", (8, 8)),
    )
    found = run(expected, actual)
    assert pairs(found) == [
        (str(one.key), str(two.key), MODULE)
        for one, two in zip(expected.tensors(), actual.tensors(), strict=True)
    ]


def test_the_second_call_of_a_module_is_not_its_first() -> None:
    expected = record(*((f"{LAYER}.norm.Norm.{n}.forward_output.0", (5, 8)) for n in (0, 2)))
    actual = record(*((f"{LAYER}.norm.RMSNorm.{n}.forward_output.0", (5, 8)) for n in (0, 1)))
    assert [(one[-18], two[-18]) for one, two, _ in pairs(run(expected, actual))] == [
        ("0", "0"),
        ("2", "1"),
    ]


def test_an_output_that_has_moved_is_found_by_its_size_where_only_one_has_it() -> None:
    # Routers of transformers before 5 and of today: ids are the first output, or the last.
    expected, actual = MemoryRecord(), MemoryRecord()
    gate = f"{LAYER}.mlp.gate"
    expected.add(f"{gate}.Router.0.forward_output.0", torch.zeros(5, 16))
    expected.add(f"{gate}.Router.0.forward_output.1", torch.zeros(5, 4))
    expected.add(f"{gate}.Router.0.forward_output.2", torch.zeros(5, 4, dtype=torch.int64))
    actual.add(f"{gate}.TopkRouter.0.forward_output.0", torch.zeros(5, 4, dtype=torch.int32))
    actual.add(f"{gate}.TopkRouter.0.forward_output.1", torch.zeros(5, 4))
    found = run(expected, actual)
    assert [(one[-1], two[-1]) for one, two, _ in pairs(found)] == [("1", "1"), ("2", "0")]
    assert left(found) == ([f"{gate}.Router.0.forward_output.0"], [])


@pytest.mark.parametrize("swap", [False, True])
def test_a_merged_projection_has_its_parts_as_columns(swap: bool) -> None:
    parts = record(
        *(
            (f"{LAYER}.self_attn.{name}_proj.Linear.0.forward_output.0", (1, 5, size))
            for name, size in (("q", 12), ("k", 4), ("v", 4))
        )
    )
    whole = "encoder.layers.0.self_attention.query_key_value.Linear.0.forward_output.0"
    merged = record((whole, (5, 20)))
    found = run(merged, parts) if swap else run(parts, merged)
    sides = [(two, one) if swap else (one, two) for one, two, _ in pairs(found)]
    assert [whole for _, whole in sides] == [f"{whole}[0:12]", f"{whole}[12:16]", f"{whole}[16:20]"]
    assert [part for part, _ in sides] == [str(each.key) for each in parts.tensors()]
    assert left(found) == ([], [])


def test_a_merged_projection_of_another_width_or_without_a_part_is_left_over() -> None:
    parts = record(
        *((f"{LAYER}.self_attn.{n}_proj.Linear.0.forward_output.0", (5, 8)) for n in "qkv")
    )
    whole = f"{LAYER}.self_attn.qkv_proj.Linear.0.forward_output.0"
    assert not run(parts, record((whole, (5, 32)))).pairs
    parts.recorded.pop()
    assert not run(parts, record((whole, (5, 24)))).pairs


def test_layers_of_unknown_names_are_paired_in_order_where_they_have_equally_many() -> None:
    expected = record(*((f"{LAYER}.{n}.A.0.forward_output.0", (5, 8)) for n in "abc"))
    actual = record(*((f"blocks.0.{n}.B.0.forward_output.0", (5, 8)) for n in "xyz"))
    found = run(expected, actual)
    assert pairs(found) == [
        (str(one.key), str(two.key), ORDER)
        for one, two in zip(expected.tensors(), actual.tensors(), strict=True)
    ]


def test_what_is_ambiguous_is_left_over_and_listed() -> None:
    expected = record(*((f"{LAYER}.{n}.A.0.forward_output.0", (5, 8)) for n in "abc"))
    actual = record(*((f"blocks.0.{n}.B.0.forward_output.0", (5, 8)) for n in "xy"))
    found = run(expected, actual)
    assert not found.pairs
    assert [len(side) for side in left(found)] == [3, 2]


def test_in_a_layer_with_known_names_nothing_is_paired_by_order() -> None:
    known = (f"{LAYER}.mlp.Mlp.0.forward_output.0", (5, 8))
    expected = record(known, (f"{LAYER}.experts.Experts.0.forward_output.0", (5, 8)))
    actual = record(known, (f"{LAYER}.add.0.forward_output.0", (5, 8)))
    found = run(expected, actual)
    assert len(found.pairs) == 1
    assert [len(side) for side in left(found)] == [1, 1]


def test_pairs_are_in_the_order_of_what_is_expected() -> None:
    keys = [(f"{LAYER}.{n}.A.0.forward_output.0", (5, 8)) for n in "abc"]
    found = run(record(*keys), record(*reversed(keys)))
    assert [each[0] for each in pairs(found)] == [key for key, _ in keys]
