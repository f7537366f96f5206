"""Two records of one small model: what is compared, what of it is judged, and what fails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmc.check.align.compare import align
from glmc.check.align.result import Verdict
from glmc.check.align.thresholds import Rounding, Xray
from glmc.errors import UsageError
from tests.check.align.memory_record import MemoryRecord
from tests.check.align.small_model import (
    FACTS,
    LAYERS,
    Change,
    Model,
    aligned,
    rounded,
    value,
    wrong,
)


def test_a_sound_record_has_no_fault_and_every_value_is_compared_once() -> None:
    found = aligned()
    assert wrong(found) == []
    assert found.first is None
    assert {each.verdict for each in found.values} == {Verdict.OK}
    assert len(found.values) == 2 * (2 + LAYERS * 6)
    assert found.unpaired == ((), ())
    assert [each.order for each in found.values] == sorted(each.order for each in found.values)
    assert all(each.share is not None and 0 <= each.share < 0.5 for each in found.values)
    assert max(each.share or 0 for each in found.values) > 0.05


def test_an_output_that_is_an_input_too_is_one_row() -> None:
    row = value(aligned(), "layers.1.mlp.gate.Router.0.forward_input.0")
    assert row.also == ("model.layers.1.post_attention_layernorm.Norm.0.forward_output.0",)
    bare = align(Model().made().without_statistics(), Model(1).made().without_statistics())
    assert value(bare, "layers.1.mlp.gate.Router.0.forward_input.0").also == row.also


def test_what_a_record_knows_of_a_value_is_in_its_row() -> None:
    row = value(aligned(), "layers.1.self_attn")
    assert (row.layer, row.function, row.passes) == (1, "kernel", ("rms_norm",))
    assert row.node == "model.layers.1.self_attn.q_norm.Norm.0.forward_output.0"
    assert row.paired_by == "key"
    assert (row.dtype, row.shape) == ("bfloat16", (1, 6, 4, 8))
    assert row.own is None and row.inherited is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value * 1.2, "root mean square"),
        (lambda value: torch.full_like(value, math.nan), "NaN 0 | "),
        (lambda value: value.index_fill(0, torch.tensor([5]), math.inf), "infinite 0 | "),
        (lambda value: value.roll(1, 0), "times what rounding explains"),
    ],
)
def test_a_planted_fault_is_the_first_divergence(change: Change, reason: str) -> None:
    found = aligned(**{"layers.1.self_attn": change})
    assert found.first is not None
    assert found.first.name == "model.layers.1.self_attn.q_norm.Norm.0.forward_output.0"
    assert reason in found.first.reason
    assert wrong(found) == [found.first.name]


def test_one_wrong_token_and_one_wrong_element_are_found() -> None:
    def token(value: Tensor) -> Tensor:
        value[3] *= 1.5
        return value

    def element(value: Tensor) -> Tensor:
        value[3, 5] += 2.0
        return value

    for change in (token, element):
        first = aligned(**{"layers.2.Layer": change}).first
        assert first is not None and first.layer == 2


def test_a_fault_of_a_decode_step_is_found_there() -> None:
    first = aligned(**{"1@layers.0.Layer": lambda value: -value}).first
    assert first is not None and (first.step, first.layer) == (1, 0)


def test_other_prompts_are_refused_and_other_tokens_end_the_comparison() -> None:
    expected, actual = Model().made(), Model(1).made()
    actual.facts = {**FACTS, "prompts": [[1, 2, 3, 4], [5, 9]]}
    with pytest.raises(UsageError, match="other prompts"):
        align(expected, actual)
    actual.facts = {**FACTS, "tokens": [[7], [9]]}
    found = align(expected, actual)
    assert {each.step for each in found.values} == {0}
    assert any("other tokens" in remark for remark in found.remarks)


def test_steps_of_one_side_are_said_and_other_numbers_are_paired_in_order() -> None:
    expected, actual = Model().made(), Model(1).made()
    actual.recorded = [each for each in actual.recorded if each.step == 0]
    assert "only side 0 has step 1" in align(expected, actual).remarks
    for each in actual.recorded:
        object.__setattr__(each, "step", 5)
    found = align(expected, actual)
    assert {each.step for each in found.values} == {0}
    assert any("paired in order" in remark for remark in found.remarks)


def test_what_a_reader_left_out_is_said() -> None:
    expected, actual = Model().made(), Model(1).made()
    expected.facts = {**FACTS, "skipped": ["x", "y"]}
    actual.facts = {**FACTS, "read_ranks": 8}
    found = align(expected, actual).remarks
    assert "side 0 has 2 names in another grammar, left out, such as 'x'" in found
    assert "side 1 has 8 ranks, of which the first is read" in found


def test_every_value_behind_a_nan_keeps_its_row() -> None:
    """Values that are all NaN look alike, which does not make them one tensor."""
    whole = len(aligned().values)
    broken = dict.fromkeys(("Layer.0", "act_fn"), lambda value: value * math.nan)
    assert len(aligned(**broken).values) == whole


def test_statistics_alone_are_compared_and_said_to_be_all() -> None:
    def record(seed: int, factor: float = 1.0) -> MemoryRecord:
        made = MemoryRecord(f"side {seed}", FACTS)
        exact = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
        made.add(
            "lm_head.Linear.0.forward_output.0", rounded(exact, seed) * factor, keep="statistics"
        )
        return made

    (row,) = align(record(1), record(2)).values
    assert row.verdict is Verdict.OK and "alone" in row.reason
    assert row.statistics is not None and math.isnan(row.total.rmse)
    found = align(record(1), record(2, 1.5))
    assert found.first is not None and "alone" in found.first.reason
    assert any("statistics alone" in remark for remark in found.remarks)
    nan = align(record(1), record(2, math.nan))
    assert nan.first is not None and nan.first.total.actual_nan == 256


def test_a_table_without_shapes_and_dtypes_is_compared_by_its_statistics() -> None:
    def table(seed: int, factor: float = 1.0) -> MemoryRecord:
        made = Model(seed, **{"layers.2.Layer": lambda value: value * factor}).made()
        bare = MemoryRecord("table")
        for each in made.recorded:
            bare.recorded.append(replace(each, shape=(), dtype="", load=None, facts={}))
        return bare

    found = align(Model().made(), table(1))
    assert {each.verdict for each in found.values} == {Verdict.OK}
    assert len(found.values) > 2 * LAYERS
    first = align(Model().made(), table(1, 1.5)).first
    assert first is not None and first.layer == 2
    # Nobody says what two tables are of.
    known = {each.verdict for each in align(table(0), table(1, 1.5)).values if each.total.elements}
    assert known == {Verdict.UNKNOWN}


def test_rows_that_both_have_are_compared() -> None:
    key = "model.layers.0.Layer.0.forward_output.0"
    exact = torch.randn(6, 8)
    wrong_row = exact.clone()
    wrong_row[3] = 0
    found = []
    for rows in ("0,1", "1,3"):
        expected, actual = MemoryRecord("a", FACTS), MemoryRecord("b", FACTS)
        expected.add(key, exact[None], keep="1,2,3")
        actual.add(key, wrong_row, keep=rows)
        (row,) = align(expected, actual).values
        found.append((row.verdict, row.total.elements))
    assert found == [(Verdict.OK, 8), (Verdict.FAIL, 16)]
    expected, actual = MemoryRecord("a", FACTS), MemoryRecord("b", FACTS)
    expected.add(key, exact[None], keep="1")
    actual.add(key, exact.clone(), keep="2")
    bare = align(expected.without_statistics(), actual.without_statistics())
    assert [each.verdict for each in bare.values] == [Verdict.UNKNOWN]


def test_weights_must_be_equal_in_the_coarser_dtype() -> None:
    key = "model.layers.0.mlp.up_proj.Linear.0.forward_params.weight"
    exact = torch.randn(8, 8)
    for change, verdict in ((1.0, Verdict.OK), (1.01, Verdict.FAIL)):
        expected, actual = MemoryRecord("a", FACTS), MemoryRecord("b", FACTS)
        expected.add(key, exact)
        actual.add(key, exact.bfloat16() * change)
        (row,) = align(expected, actual).values
        assert row.verdict is verdict


def test_a_file_that_stores_bfloat16_as_float32_is_judged_as_bfloat16() -> None:
    def foreign(seed: int, dtype: torch.dtype) -> MemoryRecord:
        made = MemoryRecord(f"side {seed}")
        for layer in range(3):
            exact = torch.randn(6, 64, generator=torch.Generator().manual_seed(layer))
            value = rounded(exact, 10 * seed + layer).float() if seed else exact.to(dtype).float()
            made.add(f"model.layers.{layer}.Layer.0.forward_output.0", value)
        return made.without_statistics()

    found = align(foreign(0, torch.bfloat16), foreign(1, torch.bfloat16))
    assert {each.verdict for each in found.values} == {Verdict.OK}
    assert any("bfloat16, by its values" in remark for remark in found.remarks)
    # Of two sides in float32 such errors are none of rounding.
    exact = [foreign(0, torch.float32), foreign(0, torch.float32)]
    for each in exact[1].recorded:
        assert each.load is not None
        each.load().mul_(1 + 2**-8)
    assert len(wrong(align(*exact))) == 3


def test_thresholds_of_torch_xray_look_at_the_largest_error_alone() -> None:
    def record(error: float) -> MemoryRecord:
        made = MemoryRecord("side", {**FACTS, "dtype": "float32"})
        value = torch.zeros(4, 64)
        value[1, 2] = 1 + error
        made.add("model.layers.0.Layer.0.forward_output.0", value)
        return made

    for error, verdict in ((0.0078125, Verdict.OK), (0.015625, Verdict.FAIL)):
        found = align(record(0.0), record(error), Xray())
        assert found.values[0].verdict is verdict
    assert "inferred" in found.thresholds
    assert align(record(0.0), record(0.0078125), Rounding()).first is not None


def test_where_nothing_says_the_dtype_the_remedy_is_said_once() -> None:
    sides = [MemoryRecord(name, {}) for name in ("a", "b")]
    for side in sides:
        for layer in range(2):
            name = f"model.layers.{layer}.mlp.Linear.0.forward_output.0"
            side.add(name, torch.arange(8.0).view(2, 4), keep="statistics")
    alignment = align(*sides)
    assert {each.verdict for each in alignment.values} == {Verdict.UNKNOWN}
    (said,) = (each for each in alignment.remarks if "computed in" in each)
    assert said.startswith("neither side says what it was computed in, so how far apart")
    assert "glmc record MODEL --dtype NAME" in said
