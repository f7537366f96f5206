from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmc.errors import LoweringError
from glmc.lowering.target import TOKENS, Value, fixed
from tests.backends.kunlun.harness import (
    DTYPES,
    PROFILES,
    Bench,
    Counts,
    close,
    options,
    random,
    reference,
    tokens_by,
)

ROWS, HIDDEN, EXPERTS, TOP_K, WIDTH = 7, 16, 8, 3, 16
anywhere = pytest.mark.parametrize("profile", PROFILES)
any_dtype = pytest.mark.parametrize("dtype", DTYPES)
CHOICE = [((TOKENS, fixed(TOP_K)), torch.float32), ((TOKENS, fixed(TOP_K)), torch.int64)]


def bench(profile: str = "P-A", dtype: torch.dtype = torch.float32, rows: int = ROWS) -> Bench:
    return Bench(options(profile, dtype), Counts(rows, rows), Counts(rows, rows))


def gate_data(dtype: torch.dtype, **change: object) -> dict[str, object]:
    return {
        "x": random(ROWS, HIDDEN, dtype=dtype),
        "weight": random(EXPERTS, HIDDEN, dtype=dtype, seed=1),
        "bias": random(EXPERTS, seed=2) / 4,
        "top_k": TOP_K,
        "groups": 1,
        "top_groups": 1,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 1.0,
        **change,
    }


def gate(at: Bench, given: dict[str, object], name: str = "gate") -> list[Value]:
    values = {
        **given,
        "x": at.tensor("x", given["x"], tokens_by(HIDDEN)),
        "weight": at.packed(name, given["weight"]),
        "bias": at.packed(f"{name}.bias", given["bias"]),
    }
    return at.lower("moe_gate", values, CHOICE)


def same_choice(at: Bench, found: list[Value], given: dict[str, object]) -> None:
    """Experts and weights agree; the order of the chosen within a token has no meaning."""
    weights, ids = reference("moe_gate", **given)
    order, expected_order = at.read(found[1]).argsort(-1), ids.argsort(-1)
    assert torch.equal(at.read(found[1]).gather(1, order).long(), ids.gather(1, expected_order))
    close(at.read(found[0]).gather(1, order), weights.gather(1, expected_order))


@anywhere
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("fill", [0.0, -math.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_moe_gate_grid(
    profile: str, groups: int, fill: float, normalize: bool, scale: float
) -> None:
    change = {"groups": groups, "top_groups": min(groups, 2), "normalize": normalize}
    given = gate_data(torch.float32, group_fill=fill, scale=scale, **change)
    at = bench(profile)
    found = gate(at, given)
    calls = at.run()
    same_choice(at, found, given)
    fused = groups == 1 and normalize
    assert calls["kunlun_ops.moe_sigmoid_group_topk_norm"] == fused
    assert calls["router.sigmoid_group_topk"] == calls["kunlun_ops.gen_block_statistic"] != fused
    assert bool(at.remarks) != fused
    assert found[1].dtype is torch.int32
    histogram = at.read(next(iter(at.notes.values())))
    counts = torch.bincount(at.read(found[1]).flatten().long(), minlength=EXPERTS)
    assert torch.equal(histogram.sum(0).long(), counts)


@pytest.mark.parametrize("fill", [0.0, -math.inf])
def test_the_fill_decides_when_biased_scores_are_negative(fill: float) -> None:
    """With a fill of 0.0 experts of dropped groups win over negative scores."""
    bias = torch.full((EXPERTS,), -3.0)
    bias[:4] = -2.0
    change = {"groups": 2, "top_groups": 1, "bias": bias, "group_fill": fill}
    given = gate_data(torch.float32, **change)
    at = bench()
    found = gate(at, given)
    at.run()
    same_choice(at, found, given)
    inside = at.read(found[1]) < 4
    assert bool(inside.all()) == (fill != 0.0)


@anywhere
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"groups": 4, "top_groups": 2}, "outside the 2 best groups"),
        ({"normalize": False}, "always divides by the sum"),
        ({"normalize_eps": 1e-3}, "adds no eps"),
    ],
)
def test_moe_gate_says_why_it_is_not_fused(
    profile: str, change: dict[str, object], reason: str
) -> None:
    at, given = bench(profile), gate_data(torch.float32, **change)
    found = gate(at, given)
    at.run()
    same_choice(at, found, given)
    assert len(at.remarks) == 1 and reason in at.remarks[0]


@anywhere
@any_dtype
def test_moe_gate_is_float32_whatever_the_model_is(profile: str, dtype: torch.dtype) -> None:
    """All groups kept is no grouping; logits come from float32 copies of x and the weight."""
    at, given = bench(profile, dtype), gate_data(dtype, groups=4, top_groups=4)
    found = gate(at, given)
    calls = at.run()
    same_choice(at, found, given)
    assert calls["aten.copy"] == (dtype != torch.float32)
    name = "gate" if dtype == torch.float32 else "gate.float32"
    assert at.weights[name][1].dtype is torch.float32 and not at.remarks


def test_moe_gate_refuses_more_than_512_experts_and_a_narrow_bias() -> None:
    at = bench()
    change = {"weight": torch.zeros(513, HIDDEN), "bias": torch.zeros(513)}
    with pytest.raises(LoweringError, match="above 512 experts"):
        gate(at, gate_data(torch.float32, **change))
    with pytest.raises(LoweringError, match="'bias' in one dtype only"):
        gate(at, gate_data(torch.float32, bias=torch.zeros(EXPERTS, dtype=torch.float16)))


def expert_data(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    ids = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(ROWS)])
    return {
        "x": random(ROWS, HIDDEN, dtype=dtype),
        "weights": random(ROWS, TOP_K, seed=1).softmax(-1),
        "ids": ids,
        "gate_up": random(EXPERTS, 2 * WIDTH, HIDDEN, dtype=dtype, seed=2) / 4,
        "down": random(EXPERTS, HIDDEN, WIDTH, dtype=dtype, seed=3) / 4,
    }


def experts(at: Bench, given: dict[str, Tensor], chosen: list[Value] | None = None) -> Value:
    weights, ids = chosen or (
        at.tensor("weights", given["weights"], (TOKENS, fixed(TOP_K))),
        at.tensor("ids", given["ids"], (TOKENS, fixed(TOP_K))),
    )
    values = {
        "x": at.tensor("x", given["x"], tokens_by(HIDDEN)),
        "weights": weights,
        "ids": ids,
        "gate_up": at.packed("gate_up", given["gate_up"]),
        "down": at.packed("down", given["down"]),
    }
    return at.lower("moe_ffn", values, [(tokens_by(HIDDEN), given["x"].dtype)])[0]


@anywhere
@any_dtype
def test_moe_ffn_alone(profile: str, dtype: torch.dtype) -> None:
    """Without a gate in front the histogram is made here, and int64 ids are copied to int32."""
    at, given = bench(profile, dtype), expert_data(dtype)
    out = experts(at, given)
    calls = at.run()
    close(at.read(out), reference("moe_ffn", **given))
    assert calls["kunlun_ops.gen_block_statistic"] == calls["aten.copy"] == 1
    assert sum(count for name, count in calls.items() if name.startswith("kunlun_ops")) == 6


@anywhere
@any_dtype
@pytest.mark.parametrize("normalize", [True, False])
def test_gate_and_experts_share_the_histogram(
    profile: str, dtype: torch.dtype, normalize: bool
) -> None:
    at = bench(profile, dtype)
    routing, given = gate_data(dtype, normalize=normalize), expert_data(dtype)
    chosen = gate(at, {**routing, "x": given["x"]})
    first = experts(at, given, chosen)
    second = experts(at, {**given, "x": given["x"] * 2}, chosen)
    calls = at.run()
    weights, ids = reference("moe_gate", **{**routing, "x": given["x"]})
    for out, factor in ((first, 1), (second, 2)):
        expected = {**given, "x": given["x"] * factor, "weights": weights, "ids": ids}
        close(at.read(out), reference("moe_ffn", **expected))
    assert calls["kunlun_ops.gen_block_statistic"] == (not normalize)
    assert calls["aten.add"] == 1, "the ones of moe_post are made once"


def test_two_gates_keep_their_histograms_apart() -> None:
    """Both gates come before both experts; a view of the ids is still the same choice."""
    at, given = bench(), expert_data(torch.float32)
    inputs = [gate_data(torch.float32), gate_data(torch.float32, bias=-torch.arange(EXPERTS) / 8)]
    inputs[1]["x"] = -given["x"]
    chosen = [gate(at, routing, f"gate{number}") for number, routing in enumerate(inputs)]
    seen = [[weights, replace(ids, name="view")] for weights, ids in chosen]
    outs = [experts(at, given, pair) for pair in seen]
    calls = at.run()
    for out, routing in zip(outs, inputs, strict=True):
        weights, ids = reference("moe_gate", **routing)
        close(at.read(out), reference("moe_ffn", **{**given, "weights": weights, "ids": ids}))
    assert calls["kunlun_ops.gen_block_statistic"] == 0


def test_all_tokens_to_the_same_experts() -> None:
    at, given = bench(), expert_data(torch.float32)
    given["ids"] = torch.tensor([[7, 0, 3]]).expand(ROWS, TOP_K).contiguous()
    out = experts(at, given)
    at.run()
    close(at.read(out), reference("moe_ffn", **given))


def local_experts(at: Bench, given: dict[str, Tensor], chosen: list[Value] | None = None) -> Value:
    """Of the experts 2, 3 and 4, which a rank has."""
    weights, ids = chosen or (
        at.tensor("weights", given["weights"], (TOKENS, fixed(TOP_K))),
        at.tensor("ids", given["ids"], (TOKENS, fixed(TOP_K))),
    )
    values = {
        "x": at.tensor("x", given["x"], tokens_by(HIDDEN)),
        "weights": weights,
        "ids": ids,
        "gate_up": at.packed("gate_up", given["gate_up"]),
        "down": at.packed("down", given["down"]),
        "first": at.constant("first", given["first"]),
    }
    return at.lower("local_moe_ffn", values, [(tokens_by(HIDDEN), given["x"].dtype)])[0]


def local_data(dtype: torch.dtype) -> dict[str, Tensor]:
    given = expert_data(dtype)
    here = {name: given[name][2:5].clone() for name in ("gate_up", "down")}
    return {**given, **here, "first": torch.tensor([2])}


@anywhere
@any_dtype
@pytest.mark.parametrize("kind", ["some", "none", "all"])
def test_experts_of_a_rank(profile: str, dtype: torch.dtype, kind: str) -> None:
    """All memory is poisoned before: what the functions leave alone would show."""
    at, given = bench(profile, dtype), local_data(dtype)
    if kind != "some":
        chosen = [2, 4, 3] if kind == "all" else [0, 7, 5]
        given["ids"] = torch.tensor([chosen]).expand(ROWS, TOP_K).contiguous()
    out = local_experts(at, given)
    calls = at.run()
    close(at.read(out), reference("local_moe_ffn", **given))
    assert calls["aten.local_experts"] == calls["kunlun_ops.gen_block_statistic"] == 1
    sort = next(call for call in at.calls if call.function == "kunlun_ops.moe_pre_sorted")
    assert sort.arguments["index_have_neg"] is True
    assert bool(at.remarks) == (profile != "P-C")


@anywhere
def test_experts_of_a_rank_take_the_choice_of_a_gate_as_it_is(profile: str) -> None:
    """Its histogram is of all experts; another is made of the rank's."""
    at, given = bench(profile), local_data(torch.float32)
    routing = {**gate_data(torch.float32), "x": given["x"]}
    out = local_experts(at, given, gate(at, routing))
    calls = at.run()
    weights, ids = reference("moe_gate", **routing)
    close(at.read(out), reference("local_moe_ffn", **{**given, "weights": weights, "ids": ids}))
    assert calls["aten.copy"] == 0 and calls["kunlun_ops.gen_block_statistic"] == 1


def test_rows_that_nobody_writes_must_be_zero() -> None:
    at, given = bench(), local_data(torch.float32)
    out = local_experts(at, given)
    rows = at.calls[-1].arguments["x"].buffer
    zeros = [call for call in at.calls if call.function == "aten.zero"]
    assert rows in {call.arguments["out"].buffer for call in zeros}
    at.calls = [
        call for call in at.calls if call not in zeros or call.arguments["out"].buffer != rows
    ]
    at.run()
    assert at.read(out).isnan().any()


def test_moe_ffn_refuses_rows_that_are_not_aligned() -> None:
    at, given = bench("P-A", torch.float16), expert_data(torch.float16)
    given["gate_up"] = torch.zeros(EXPERTS, 24, HIDDEN, dtype=torch.float16)
    given["down"] = torch.zeros(EXPERTS, HIDDEN, 12, dtype=torch.float16)
    with pytest.raises(LoweringError, match="aligned rows"):
        experts(at, given)
