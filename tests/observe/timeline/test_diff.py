"""Two timelines: how rows find each other, the three levers, and what one side alone pays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.diff import Aligned, diff, general
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.table import StepKind, Timeline
from tests.observe.timeline.sample import LAYER, VLLM, kernel, layered, noisy, timeline


def named(made: Timeline, label: str = "b") -> Timeline:
    return replace(made, label=label)


def test_by_node_where_both_know_it_without_the_number_of_the_layer() -> None:
    a = timeline(
        kernel("gemv", 0, 4, node="model.layers.0.mlp.up#mm"),
        kernel("gemv", 5, 6, node="model.layers.1.mlp.up#mm", floor_us=2.0),
        kernel("extra", 12, 3, node="model.layers.0.mlp.act#silu"),
    )
    b = timeline(kernel("other", 0, 7, node="model.layers.0.mlp.up#mm"))
    made = diff(a, b, None, slice(None))
    first = next(row for row in made.rows if row.aligned is Aligned.NODE)
    assert first.name == "model.layers.*.mlp.up#mm"
    assert first.difference_us == 3 and first.floor_us == 2.0
    assert first.a is not None and first.a.launches == 2
    (alone,) = made.of_a_alone
    assert alone.aligned is Aligned.NAME and alone.name == "extra"


def test_by_module_and_op_where_only_modules_are_shared() -> None:
    inside = "Glm4MoeDecoderLayer_{0}/Glm4MoeAttention_{0}/Linear_{1}"
    a = timeline(kernel("nvjet", 0, 4, module=inside.format(0, 3)))
    b = timeline(kernel("gemv_kernel", 0, 5, module=inside.format(7, 9)))
    (row,) = diff(a, b, None, slice(None)).rows
    assert row.aligned is Aligned.MODULE
    assert row.name == "Glm4MoeDecoderLayer_*/Glm4MoeAttention/Linear: linear"


def test_by_op_else_by_name() -> None:
    a = timeline(kernel("nvjet", 0, 4), kernel("strange", 5, 1))
    b = timeline(kernel("gemv_kernel", 0, 5), kernel("strange", 6, 2))
    made = diff(a, b, None, slice(None))
    assert {(row.aligned, row.name): row.difference_us for row in made.rows} == {
        (Aligned.OP_CLASS, "linear"): -1,
        (Aligned.NAME, "strange"): -1,
    }


def test_three_levers_add_up_to_the_step() -> None:
    a = timeline(
        kernel("nvjet", 0, 10, queued_us=0, floor_us=8.0),
        kernel("ncclDevKernel_AllReduce", 14, 6, queued_us=13),
    )
    b = timeline(kernel("nvjet", 0, 9))
    made = diff(a, b, None, slice(None))
    assert [(lever.name, lever.a, lever.b) for lever in made.levers] == [
        ("operator level", 10, 9),
        ("bubbles", 4, 0),
        ("communication", 6, 0),
    ]
    assert sum(lever.difference_us for lever in made.levers) == made.a.time_us - made.b.time_us
    assert [lever.floor_us for lever in made.levers] == [8.0, 0.0, None]


def test_every_event_is_in_one_row() -> None:
    a, b = open_timeline(VLLM), layered(12, kernels=LAYER, label="b")
    made = diff(a, b, None, None)
    for side, whole in (("a", made.a), ("b", made.b)):
        rows = [getattr(row, side) for row in made.rows]
        assert sum(row.launches for row in rows if row) == whole.launches
    assert len(made.largest) == 10
    sizes = [abs(row.difference_us) for row in made.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_rows_and_levers_add_up_where_steps_differ() -> None:
    made = diff(noisy(5), noisy(3), None, slice(None))
    rows = sum(row.difference_us for row in made.rows)
    assert rows == pytest.approx(made.a.busy_us - made.b.busy_us) and rows != 0
    levers = sum(lever.difference_us or 0.0 for lever in made.levers)
    assert levers == pytest.approx(made.a.time_us - made.b.time_us)


def test_a_file_against_itself_has_no_difference() -> None:
    made = diff(open_timeline(VLLM), open_timeline(VLLM), None, None)
    assert all(row.difference_us == 0 and row.a and row.b for row in made.rows)
    assert made.largest == ()
    assert made.remarks == ("nothing differs, no row by 0.05 us or more",)


def test_rows_without_difference_are_not_among_the_largest() -> None:
    a = timeline(kernel("nvjet", 0, 4), kernel("strange", 5, 1))
    made = diff(a, timeline(kernel("nvjet", 0, 4), kernel("strange", 5, 3)), None, slice(None))
    assert [row.name for row in made.largest] == ["strange"] and made.remarks == ()
    assert len(made.rows) == 2
    later = timeline(kernel("nvjet", 0, 4), kernel("strange", 6, 1))
    (remark,) = diff(a, later, None, slice(None)).remarks
    assert "only bubbles differ" in remark


def test_steps_of_other_sizes_are_not_compared() -> None:
    other = timeline(kernel("nvjet", 0, 4), kind=StepKind("decode", 16, 16), label="b")
    with pytest.raises(UsageError, match="no steps of equal phase and size") as caught:
        diff(layered(3), other, None, None)
    assert "decode of 16 sequences" in str(caught.value)
    with pytest.raises(UsageError, match="leave out --phase"):
        diff(layered(3), other, "prefill", None)


def test_a_file_without_sizes_is_compared_and_that_is_said() -> None:
    whole = timeline(kernel("nvjet", 0, 4), kind=StepKind("", None, None), label="b")
    (remark,) = diff(layered(3), whole, None, None).remarks
    assert remark.endswith("decode of 1 sequence, 1 token is compared with step of unknown phase")


def test_numbers_of_layers_are_left_out() -> None:
    assert general("model.layers.12.mlp.gate#mm") == "model.layers.*.mlp.gate#mm"
    assert general("A_0/Glm4MoeDecoderLayer_3/B_3") == "A_0/Glm4MoeDecoderLayer_*/B_3"
