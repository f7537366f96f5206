"""Floors, bars and costs against numbers that were worked out by hand."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.gpu_moe import Shape, distinct_ids
from bench.gpu.gpu_results import BAR_BANDWIDTH, BAR_RATE, BARS, Machine, bar
from bench.gpu.gpu_stages import cost, stages_of
from bench.models import gpu_model
from glmc_runtime.format.plan import (
    BufferArgument,
    CacheArgument,
    Call,
    InputArgument,
    ValueArgument,
    WeightArgument,
)

ISSUE = Machine("the card of the issue", BAR_BANDWIDTH, BAR_RATE)


@pytest.mark.parametrize(
    ("key", "batch", "milliseconds"),
    [("9b", 1, 4.1), ("9b", 16, 4.3), ("9b", 64, 4.8), ("air", 1, 1.8), ("air", 16, 8.6)],
)
def test_floors_of_decode_are_those_of_the_issue(key: str, batch: int, milliseconds: float) -> None:
    """But for 16 sequences of Air, where it says 8.3."""
    found = ISSUE.seconds(gpu_model(key, False).step_bytes(batch, 1024)) * 1e3
    assert found == pytest.approx(milliseconds, abs=0.06)


def test_bytes_of_a_step_by_hand() -> None:
    """q, k, v and o of 32 + 2 + 2 + 32 heads, three matrices of the MLP, lm_head; two bytes each;
    a kibibyte of keys and values for each token and layer."""
    layer = (68 * 128 + 3 * 13696) * 4096
    weights = 2 * (40 * layer + 151552 * 4096)
    assert gpu_model("9b", False).step_bytes(4, 100) == weights + 4 * 100 * 40 * 1024


def test_bytes_follow_the_experts_that_were_read() -> None:
    model = gpu_model("air", False)
    expert = 3 * 4096 * 1408 * 2
    assert model.expected_experts(1) == pytest.approx(8)
    more = model.step_bytes_read(1, 0, 10.0) - model.step_bytes(1, 0)
    assert more == pytest.approx(2 * 11 * expert)


def test_operations_of_a_prefill_by_hand() -> None:
    layer = (68 * 128 + 3 * 13696) * 4096
    attended = 2048 * 2049 // 2
    expected = 2 * 2048 * 40 * layer + 40 * 4 * 4096 * attended + 2 * 151552 * 4096
    model = gpu_model("9b", False)
    assert model.prefill_operations(2048) == pytest.approx(expected)
    # The issue counts the embedding and lm_head for every token: 48 ms.
    assert 40 < ISSUE.seconds(0, model.prefill_operations(2048)) * 1e3 < 48
    active = 11 * ((96 + 16 + 96) * 128 + 9 * 3 * 1408 + 128) * 4096
    dense = ((96 + 16 + 96) * 128 + 3 * 10944) * 4096
    attention = 12 * 4 * 96 * 128
    assert gpu_model("air", False).prefill_operations(1) == pytest.approx(
        2 * (active + dense) + attention + 2 * 151552 * 4096
    )


@pytest.mark.parametrize(("tokens", "microseconds"), [(1, 71), (8, 567), (32, 1134), (64, 1134)])
def test_floors_of_the_experts(tokens: int, microseconds: float) -> None:
    shape = Shape()
    for ids in distinct_ids(shape, tokens, 3):
        assert ids.shape == (tokens, 8)
        assert all(len(row.unique()) == 8 for row in ids)
        read = len(ids.unique()) * shape.expert_bytes
        assert ISSUE.seconds(read) * 1e6 == pytest.approx(microseconds, abs=1)


def test_calls_in_a_row_read_other_experts() -> None:
    calls = distinct_ids(Shape(), 1, 16)
    assert len(torch.cat(calls).unique()) == 128


def test_bars_keep_their_share_of_the_floor() -> None:
    slower = Machine("a slower card", 3.0e12, 400e12)
    model = gpu_model("9b", False)
    read = model.step_bytes(1, 1024)
    allowed = bar(slower, "9b", "decode", 1, slower.seconds(read) * 1e3)
    assert allowed == pytest.approx(4.9 * 4.26 / 3.0)
    assert slower.seconds(read) * 1e3 / allowed == pytest.approx(ISSUE.seconds(read) * 1e3 / 4.9)
    assert bar(slower, "9b", "prefill", 2048, 1.0) == pytest.approx(112.0)
    assert bar(slower, "9b", "long", 32768, 6.0) == pytest.approx(8.0)
    assert bar(slower, "9b", "decode", 2, 1.0) is None
    assert all(value > 0 for value in BARS.values())


def _call(function: str, arguments: dict[str, object], **more: object) -> Call:
    return Call(
        function,
        arguments,  # type: ignore[arg-type]
        ("out",),
        False,
        "node",
        "origin",
        0,
        str(more.get("module", "model.layers.0.mlp")),
    )


def test_cost_of_a_product_by_hand() -> None:
    call = _call(
        "cuda.linear_swiglu",
        {
            "x": BufferArgument(0),
            "weight": WeightArgument("w"),
            "merged": BufferArgument(1),
            "out": BufferArgument(2),
        },
    )
    values = {
        "x": torch.zeros(3, 8),
        "weight": torch.zeros(20, 8),
        "merged": torch.zeros(3, 20),
        "out": torch.zeros(3, 10),
    }
    found = cost(call, values, [1, 1, 1], 16)
    assert found.bytes == 4 * (3 * 8 + 20 * 8 + 3 * 10)  # merged is scratch
    assert found.operations == 2 * 3 * 20 * 8


def test_cost_of_attention_counts_cached_tokens() -> None:
    call = _call(
        "cuda.rope_decode_attention",
        {
            "qkv": BufferArgument(0),
            "cos_sin": WeightArgument("t"),
            "block_tables": InputArgument("block_tables"),
            "key_cache": CacheArgument("key", 0),
            "value_cache": CacheArgument("value", 0),
            "scale": ValueArgument(1.0),
            "out": BufferArgument(1),
        },
    )
    cache = torch.zeros(5, 2, 16, 8, dtype=torch.bfloat16)  # 2 heads of 8
    values = {
        "qkv": torch.zeros(2, 64, dtype=torch.bfloat16),
        "cos_sin": torch.zeros(100, 4),
        "block_tables": torch.zeros(2, 3, dtype=torch.int32),
        "key_cache": cache,
        "value_cache": cache,
        "scale": 1.0,
        "out": torch.zeros(2, 4, 8, dtype=torch.bfloat16),
    }
    found = cost(call, values, [30, 10], 16)
    token = 2 * 8 * 2
    assert found.bytes == 2 * 64 * 2 + 2 * 4 * 4 + 2 * 40 * token + 2 * 4 * 8 * 2
    assert found.operations == 4 * 4 * 8 * 40


def test_cost_of_experts_counts_each_once() -> None:
    call = _call(
        "cuda.moe_ffn",
        {
            "x": BufferArgument(0),
            "ids": BufferArgument(1),
            "gate_up": WeightArgument("g"),
            "down": WeightArgument("d"),
            "out": BufferArgument(2),
        },
    )
    values = {
        "x": torch.zeros(2, 4),
        "ids": torch.tensor([[0, 1], [1, 3]]),
        "gate_up": torch.zeros(5, 6, 4),
        "down": torch.zeros(5, 4, 3),
        "out": torch.zeros(2, 4),
    }
    found = cost(call, values, [1, 1], 16)
    assert found.bytes == 3 * 4 * (24 + 12) + 4 * 8 + 8 * 4 + 4 * 8
    assert found.operations == 2 * 4 * (24 + 12)


def test_calls_are_grouped_by_function_and_module() -> None:
    calls = tuple(
        Call("cuda.linear", {}, ("out",), False, "n", "o", layer, f"model.layers.{layer}.{name}")
        for layer in range(12)
        for name in ("self_attn.q_proj", "mlp.down_proj")
    )
    found = stages_of(calls)
    assert [stage.name for stage in found] == ["linear self_attn.q_proj", "linear mlp.down_proj"]
    assert found[0].positions == list(range(0, 24, 2))
