"""Lowering: nothing alive is overwritten, buffers live while they are read, views keep shape."""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.backends.kunlun.rules_dense import add_rms_norm
from glmc.errors import InternalError, LoweringError
from glmc.ir.ops import aten as aten_table
from glmc.ir.ops.aten import AtenFacts
from glmc.ir.ops.attention import QKV_ROPE_CACHE
from glmc.ir.ops.norms import ADD_RMS_NORM
from glmc.ir.recipe import Constant, Weight
from glmc.lowering.target import Emitter, Op, Rule, Target, fixed
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import PhasePlan, Segment
from tests.backends.planned import OPTIONS, TOKENS, WIDTH, Built, lowered, run

aten = torch.ops.aten
EPS = 1e-5


def add(op: Op, emit: Emitter) -> None:
    """In place, on the first operand."""
    x = emit.mutable(op.tensor("x"))
    emit.call("toy.add_to", writes=("x",), x=x, y=op.tensor("y"))
    emit.bind(0, x)


def neg(op: Op, emit: Emitter) -> None:
    x = emit.mutable(op.tensor("x"))
    emit.call("toy.negate", writes=("x",), x=x)
    emit.bind(0, x)


def silu(op: Op, emit: Emitter) -> None:
    emit.call("toy.silu", writes=("out",), x=op.tensor("x"), out=emit.result())


def target(**more: Rule) -> Target:
    rules = {
        "aten.add": add,
        "aten.neg": neg,
        "aten.silu": silu,
        "add_rms_norm": add_rms_norm,
        **more,
    }
    return Target("toy", MappingProxyType(rules), "blocks_heads_tokens", (torch.float32,))


def hidden(built: Built) -> Node:
    return built.input("hidden", "tokens", WIDTH)


def same(built: Built, output: Node, on: Target | None = None) -> PhasePlan:
    """Lower, run over one arena, compare with the graph; the plan."""
    program = built.program(output)
    generator = torch.Generator().manual_seed(0)
    inputs = {"hidden": torch.randn(TOKENS, WIDTH, generator=generator)}
    weights = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in program.weights.items()
    }
    before = inputs["hidden"].clone()
    plan = lowered(on or target(), program).plan
    (expected,) = program.run(inputs, weights)
    torch.testing.assert_close(run(plan, inputs, weights), expected)
    assert torch.equal(inputs["hidden"], before), "a step input was written"
    return plan


def functions(plan: PhasePlan) -> list[str]:
    return [call.function for call in plan.calls]


def test_in_place_where_nobody_reads_later() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    plan = same(built, built.call(aten.neg.default, x))
    assert functions(plan) == ["toy.silu", "toy.negate"]
    assert len(plan.buffers) == 1


def test_a_value_that_is_read_later_is_copied() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    turned = built.call(aten.neg.default, x)
    plan = same(built, built.call(aten.add.Tensor, turned, x))
    assert functions(plan) == ["toy.silu", "aten.copy", "toy.negate", "toy.add_to"]


def test_a_view_that_is_read_later_counts_as_its_buffer() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    heads = built.call(aten.reshape.default, x, [-1, 2, WIDTH // 2])
    turned = built.call(aten.neg.default, x)
    again = built.call(aten.reshape.default, heads, [-1, WIDTH])
    plan = same(built, built.call(aten.add.Tensor, turned, again))
    assert "aten.copy" in functions(plan)


def test_a_view_is_written_where_the_whole_is_not_read_again() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    heads = built.call(aten.reshape.default, x, [-1, 2, WIDTH // 2])
    turned = built.call(aten.neg.default, heads)
    plan = same(built, built.call(aten.silu.default, turned))
    assert functions(plan) == ["toy.silu", "toy.negate", "toy.silu"]


def test_the_output_is_not_overwritten_and_lives_to_the_end() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    built.call(aten.neg.default, x)  # after the output's last write, read by nobody
    plan = same(built, x)
    output = next(buffer for buffer in plan.buffers if buffer.id == plan.output)
    assert functions(plan) == ["toy.silu", "aten.copy", "toy.negate"]
    assert (output.first, output.last) == (0, 2)


def test_step_inputs_are_copied_before_they_are_written() -> None:
    built = Built()
    plan = same(built, built.call(aten.neg.default, hidden(built)))
    assert functions(plan) == ["aten.copy", "toy.negate"]


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=str)
def test_one_value_as_both_operands_of_a_call_that_writes_both(used: tuple[int, ...]) -> None:
    built = Built()
    x, weight = hidden(built), built.weight("norm", WIDTH)
    x = built.call(aten.silu.default, x)
    both = built.call(ADD_RMS_NORM.overload, x, x, weight, EPS)
    first, *more = (built.item(both, index) for index in used)
    plan = same(built, built.call(aten.add.Tensor, first, more[0]) if more else first)
    assert functions(plan).count("aten.copy") == 1


def test_unused_outputs_cost_no_copy() -> None:
    built = Built()
    x, weight = hidden(built), built.weight("norm", WIDTH)
    stream = built.call(aten.silu.default, x)
    branch = built.call(aten.silu.default, stream)
    both = built.call(ADD_RMS_NORM.overload, branch, stream, weight, EPS)
    plan = same(built, built.item(both, 0))
    assert functions(plan) == ["toy.silu", "toy.silu", "kunlun_ops.add_rmsnorm"]
    assert len(plan.buffers) == 2


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_over_reused_memory(seed: int) -> None:
    choose = random.Random(seed)
    built = Built()
    values = [hidden(built)]
    weight = built.weight("norm", WIDTH)
    for _ in range(14):
        kind = choose.choice(("neg", "silu", "add", "add", "norm", "view"))
        x, y = choose.choice(values[-4:]), choose.choice(values)
        if kind == "add":
            values.append(built.call(aten.add.Tensor, x, y))
        elif kind == "norm":
            both = built.call(ADD_RMS_NORM.overload, x, y, weight, EPS)
            values += [built.item(both, index) for index in (0, 1) if choose.random() < 0.8]
        elif kind == "view":
            heads = built.call(aten.reshape.default, x, [-1, 2, WIDTH // 2])
            heads = built.call(aten.neg.default, heads) if choose.random() < 0.5 else heads
            values.append(built.call(aten.reshape.default, heads, [-1, WIDTH]))
        else:
            one: Any = aten.neg.default if kind == "neg" else aten.silu.default
            values.append(built.call(one, x))
    values.append(built.call(aten.silu.default, values[-1]))
    plan = same(built, values[-1])
    assert len(plan.buffers) >= 1


def test_spans_are_the_calls_that_touch_a_buffer() -> None:
    built = Built()
    a = built.call(aten.silu.default, hidden(built))
    b = built.call(aten.silu.default, a)
    c = built.call(aten.silu.default, b)
    plan = same(built, built.call(aten.silu.default, built.call(aten.add.Tensor, c, a)))
    spans = [(buffer.first, buffer.last) for buffer in plan.buffers]
    assert functions(plan)[:4] == ["toy.silu", "toy.silu", "toy.silu", "toy.add_to"]
    assert spans == [(0, 3), (1, 2), (2, 4), (4, 4)]
    assert len({str(buffer.offset) for buffer in plan.buffers}) < len(plan.buffers)


def on_host(op: Op, emit: Emitter) -> None:
    emit.call("toy.silu", writes=("out",), host=True, x=op.tensor("x"), out=emit.result())


def test_segments_break_at_calls_that_read_the_host() -> None:
    built = Built()
    value = hidden(built)
    for call in (aten.neg, aten.relu, aten.silu, aten.silu, aten.relu, aten.relu):
        value = built.call(call.default, value)
    plan = lowered(target(**{"aten.relu": on_host}), built.program(value)).plan
    assert plan.segments == (
        Segment(0, 1, True),
        Segment(2, 2, False),
        Segment(3, 4, True),
        Segment(5, 6, False),
    )


def careless(op: Op, emit: Emitter) -> None:
    emit.call("toy.negate", writes=("x",), x=op.tensor("x"))
    emit.bind(0, op.tensor("x"))


def test_a_rule_that_forgets_mutable_is_stopped() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    turned = built.call(aten.neg.default, x)
    program = built.program(built.call(aten.add.Tensor, turned, x))
    with pytest.raises(InternalError, match="is still read"):
        lowered(target(**{"aten.neg": careless}), program)


def test_a_cache_that_is_still_read_is_not_written() -> None:
    built = Built()
    qkv = built.input("hidden", "tokens", 24)
    positions = built.input("positions", "tokens", dtype=torch.int64)
    slots = built.input("slot_mapping", "tokens", dtype=torch.int64)
    caches = [built.cache(kind, 1, 16, 8, "blocks") for kind in ("key", "value")]
    frequencies = built.weight("frequencies", 4)
    sizes = (1, 1, 8, False, 1.0, 0.0)
    outputs = []
    for _ in range(2):
        arguments = (qkv, None, None, positions, frequencies, slots, *caches, *sizes)
        written = built.call(QKV_ROPE_CACHE.overload, *arguments)
        outputs.append(built.item(written, 0))

    def rotate(op: Op, emit: Emitter) -> None:
        k, v = op.tensor("k_cache"), op.tensor("v_cache")
        emit.call("toy.rotate", writes=("k", "v", "out"), k=k, v=v, out=emit.result(0))
        emit.bind(1, k)
        emit.bind(2, v)

    program = built.program(built.call(aten.add.Tensor, *outputs))
    with pytest.raises(InternalError, match="is still read"):
        lowered(target(qkv_rope_cache=rotate), program)


def test_a_view_of_a_step_input_keeps_its_shape() -> None:
    built = Built()
    heads = built.call(aten.reshape.default, hidden(built), [-1, 2, WIDTH // 2])
    plan = same(built, built.call(aten.silu.default, heads))
    shape = plan.calls[0].arguments["x"].shape  # type: ignore[union-attr]
    assert shape == (Extent.of(tokens=1), fixed(2), fixed(WIDTH // 2))


def test_a_view_of_a_weight_is_refused() -> None:
    built = Built()
    weight = built.call(aten.reshape.default, built.weight("table", 2, WIDTH), [WIDTH, 2])
    program = built.program(built.call(aten.silu.default, weight))
    with pytest.raises(LoweringError, match="another shape"):
        lowered(target(), program)


def test_a_keyword_that_no_rule_sees_is_refused() -> None:
    built = Built()
    x = hidden(built)
    program = built.program(built.call(aten.add.Tensor, x, x, alpha=2))
    with pytest.raises(LoweringError, match="alpha"):
        lowered(target(), program)


def test_an_op_without_a_rule_is_named_with_its_place() -> None:
    built = Built()
    program = built.program(built.call(aten.tanh.default, hidden(built)))
    with pytest.raises(LoweringError) as caught:
        lowered(target(), program)
    assert caught.value.found == "aten.tanh"
    assert caught.value.place == "node1"


def test_an_output_that_a_rule_forgot_is_an_internal_error() -> None:
    def forgets(op: Op, emit: Emitter) -> None:
        emit.bind(0, emit.mutable(op.tensor("x")))

    built = Built()
    x, weight = hidden(built), built.weight("norm", WIDTH)
    both = built.call(ADD_RMS_NORM.overload, x, x, weight, EPS)
    program = built.program(built.item(both, 1))
    with pytest.raises(InternalError, match="not bound by its rule"):
        lowered(target(add_rms_norm=forgets), program)


def test_a_rule_cannot_take_the_name_of_a_weight_of_the_model() -> None:
    def named(op: Op, emit: Emitter) -> None:
        emit.weight(Weight("table", (1,), torch.float32, Constant((1.0,))))
        silu(op, emit)

    built = Built()
    built.weight("table", WIDTH)
    program = built.program(built.call(aten.silu.default, hidden(built)))
    with pytest.raises(InternalError, match="two different weights"):
        lowered(target(**{"aten.silu": named}), program)


def test_only_a_specialised_program_is_lowered() -> None:
    built = Built()
    program = built.program(built.call(aten.silu.default, hidden(built)))
    program.symbols = None
    with pytest.raises(InternalError, match="specialised"):
        lowered(target(), program)


def test_a_second_output_is_refused() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    with pytest.raises(InternalError, match="one output"):
        lowered(target(), built.program(x, built.call(aten.silu.default, x)))


def test_an_output_in_another_shape_than_its_buffer_is_refused() -> None:
    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    program = built.program(built.call(aten.reshape.default, x, [-1, 2, WIDTH // 2]))
    with pytest.raises(InternalError, match="view"):
        lowered(target(), program)
    assert OPTIONS.abi_profile == "P-A"


@pytest.mark.parametrize(
    ("call", "most"), [((aten.slice.Tensor, 1, 0, 4, 2), 4), ((aten.mean.dim, [1], True), 3)]
)
def test_more_arguments_than_a_rule_can_read_are_refused(
    call: tuple[Any, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Built()
    program = built.program(built.call(call[0], hidden(built), *call[1:]))
    name = call[0]._schema.name.replace("::", ".")
    if name == "aten.mean":
        monkeypatch.setattr(aten_table, "ATEN", {name: AtenFacts(arguments=("x", "axes"))})
        most = 2
    with pytest.raises(LoweringError, match="no rule knows what all arguments") as caught:
        lowered(target(**{name: silu}), program)
    assert caught.value.expected == f"at most {most}"
    assert caught.value.found == ", ".join(["hidden", *map(str, call[1:])])


def test_two_mutable_copies_of_one_value_are_two_buffers() -> None:
    """A rule that writes an operand twice over must not write into its own other copy."""

    def both(op: Op, emit: Emitter) -> None:
        first, second = emit.mutable(op.tensor("x")), emit.mutable(op.tensor("x"))
        assert first.argument != second.argument
        emit.call("toy.negate", writes=("x",), x=first)
        emit.call("toy.add_to", writes=("x",), x=second, y=second)
        emit.call("toy.add_to", writes=("x",), x=first, y=second)
        emit.bind(0, first)

    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    plan = same(built, built.call(aten.clone.default, x), target(**{"aten.clone": both}))
    assert functions(plan).count("aten.copy") == 1


def test_mutable_after_the_value_was_overwritten_is_stopped() -> None:
    def late(op: Op, emit: Emitter) -> None:
        first = emit.mutable(op.tensor("x"))
        emit.call("toy.negate", writes=("x",), x=first)
        emit.bind(0, emit.mutable(op.tensor("x")))

    built = Built()
    x = built.call(aten.silu.default, hidden(built))
    program = built.program(built.call(aten.neg.default, x))
    with pytest.raises(InternalError, match="asked for again"):
        lowered(target(**{"aten.neg": late}), program)
