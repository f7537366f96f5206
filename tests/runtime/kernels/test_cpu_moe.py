"""The gate by torch on ties and groups, the experts on every way to fill them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu import decode_library, few_rows, moe_ffn
from glmc_runtime.kernels.cpu.few_rows import FEW_TOKENS
from glmc_runtime.kernels.cpu.moe_gate import shared_router
from tests.runtime.kernels.harness import FLOATS, close, nan, random, require_compiler, run

HIDDEN, EXPERTS, TOP_K, WIDTH = 24, 16, 4, 12


def gate(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, constants: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = F.linear(x.float(), weight.float()).sigmoid()
    choice = scores + bias
    groups, best = constants["groups"], constants["top_groups"]
    if groups != best:
        by_group = choice.view(x.shape[0], groups, -1)
        chosen = by_group.topk(2, -1)[0].sum(-1).topk(best, -1, sorted=False)[1]
        kept = torch.zeros(x.shape[0], groups).scatter_(1, chosen, 1.0).bool()
        choice = by_group.masked_fill(~kept.unsqueeze(-1), constants["group_fill"]).flatten(1)
    ids = choice.topk(TOP_K, -1, sorted=False)[1]
    weights = scores.gather(1, ids)
    if constants["normalize"]:
        weights = weights / (weights.sum(-1, keepdim=True) + constants["normalize_eps"])
    return weights * constants["scale"], ids


def gate_arguments(tokens: int, dtype: torch.dtype, **constants: Any) -> dict[str, Any]:
    groups, best = constants["groups"], constants["top_groups"]
    integers = {"dtype": torch.int64}
    return {
        "x": random(tokens, HIDDEN, dtype=dtype),
        "weight": random(EXPERTS, HIDDEN, dtype=dtype, seed=2),
        "bias": random(EXPERTS, seed=3),
        "weights": nan(tokens, TOP_K),
        "ids": torch.full((tokens, TOP_K), -1, **integers),
        "x_float": nan(tokens, HIDDEN),
        "logits": nan(tokens, EXPERTS),
        "choice": nan(tokens, EXPERTS),
        "chosen_values": nan(tokens, TOP_K),
        "sums": nan(tokens, 1),
        "best_scores": nan(tokens, groups, 2),
        "best_ids": torch.zeros(tokens, groups, 2, **integers),
        "group_scores": nan(tokens, groups),
        "dropped": torch.zeros(tokens, groups, dtype=torch.bool),
        "chosen_scores": nan(tokens, best),
        "chosen_groups": torch.zeros(tokens, best, **integers),
        "normalize_eps": 1e-20,
        "scale": 2.5,
        **constants,
    }


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("groups", "best", "fill"), [(1, 1, 0.0), (4, 4, 0.0), (4, 2, 0.0), (4, 2, -torch.inf)]
)
@pytest.mark.parametrize("kind", ["random", "ties", "negative"])
def test_gate_is_bitwise(
    dtype: torch.dtype, tokens: int, normalize: bool, groups: int, best: int, fill: float, kind: str
) -> None:
    arguments = gate_arguments(
        tokens, dtype, groups=groups, top_groups=best, group_fill=fill, normalize=normalize
    )
    if kind == "ties":
        arguments["weight"].zero_()
        arguments["bias"].zero_()
    elif kind == "negative":
        arguments["bias"].sub_(5.0)  # all choices below the fill of 0.0
    run("moe_gate", **arguments)
    weights, ids = gate(arguments["x"], arguments["weight"], arguments["bias"], arguments)
    assert torch.equal(arguments["ids"], ids)
    assert torch.equal(arguments["weights"], weights)


def test_gate_refuses_numbers_that_do_not_fit() -> None:
    arguments = gate_arguments(2, torch.float32, groups=3, top_groups=1, group_fill=0.0)
    with pytest.raises(PlanError, match="fit together"):
        find_binder("cpu.moe_gate")({**arguments, "normalize": True})


def experts(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token in range(x.shape[0]):
        for slot, expert in enumerate(ids[token].tolist()):
            gate, value = (x[token].double() @ up[expert].double().t()).chunk(2, -1)
            result = (F.silu(gate) * value) @ down[expert].double().t()
            out[token] += weights[token, slot].double() * result
    return out


def ffn_arguments(tokens: int, dtype: torch.dtype, ids: torch.Tensor) -> dict[str, Any]:
    top_k = ids.shape[1]
    rows = tokens * top_k
    return {
        "x": random(tokens, HIDDEN, dtype=dtype),
        "weights": random(tokens, top_k, seed=2).abs(),
        "ids": ids,
        "gate_up": (random(EXPERTS, 2 * WIDTH, HIDDEN, seed=3) / HIDDEN**0.5).to(dtype),
        "down": (random(EXPERTS, HIDDEN, WIDTH, seed=4) / WIDTH**0.5).to(dtype),
        "out": nan(tokens, HIDDEN, dtype=dtype),
        "gathered": nan(rows, HIDDEN, dtype=dtype),
        "results": nan(rows, HIDDEN, dtype=dtype),
        "merged": nan(rows, 2 * WIDTH, dtype=dtype),
        "activated": nan(rows, WIDTH, dtype=dtype),
        "products": nan(tokens, top_k, HIDDEN),
        "total": nan(tokens, HIDDEN),
        "sorted_ids": torch.zeros(rows, dtype=torch.int64),
        "order": torch.zeros(rows, dtype=torch.int64),
        "rows": torch.zeros(rows, dtype=torch.int64),
    }


def choices(kind: str, tokens: int) -> torch.Tensor:
    if kind == "one expert":
        return torch.full((tokens, 1), 5)
    if kind == "same experts":
        return torch.tensor([[7, 0, 15, 3]]).repeat(tokens, 1)
    generator = torch.Generator().manual_seed(0)
    return torch.stack(
        [torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(tokens)]
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 2, 5, 16, 37])
@pytest.mark.parametrize("kind", ["random", "one expert", "same experts"])
@pytest.mark.parametrize("ours", [False, True])
def test_experts(
    dtype: torch.dtype, tokens: int, kind: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``ours`` in C, or by torch's products of each expert."""
    if not ours:
        monkeypatch.setattr(decode_library, "_library", lambda: None)
    arguments = ffn_arguments(tokens, dtype, choices(kind, tokens))
    by_torch = not ours or dtype not in decode_library.KINDS or decode_library._library() is None
    run("moe_ffn", by_torch=by_torch, **arguments)
    inputs = (arguments[name] for name in ("x", "weights", "ids", "gate_up", "down"))
    close(arguments["out"], experts(*inputs))


COUNTS = {
    "after the end": [9, 89, 125],  # the last may not be computed up to eight rows more
    "even": [8, 88, 128],
    "few": [1, 3, 70],
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("ours", [False, True])
def test_rows_of_an_expert_beside_those_of_the_next(
    dtype: torch.dtype, case: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products by torch of more rows than an expert has: the next one's are written after."""
    counts = COUNTS[case]
    if not ours:
        monkeypatch.setattr(decode_library, "_library", lambda: None)
    monkeypatch.setattr(few_rows, "multiplies", lambda _: True)  # then torch has some of them
    monkeypatch.setattr(moe_ffn, "prefers_few_rows_experts", lambda _: False)
    ids = torch.repeat_interleave(torch.tensor([2, 5, 9]), torch.tensor(counts))[:, None]
    arguments = ffn_arguments(len(ids), dtype, ids)
    made: list[int] = []
    mm = torch.mm

    def seen(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        made.append(x.shape[0])
        return mm(x, *more, **named)

    monkeypatch.setattr(torch, "mm", seen)
    run("moe_ffn", by_torch=True, **arguments)
    inputs = (arguments[name] for name in ("x", "weights", "ids", "gate_up", "down"))
    close(arguments["out"], experts(*inputs))
    if dtype != torch.float32:
        # oneDNN keeps a kernel for each number of rows.
        assert made and all(rows % 8 == 0 for rows in made if rows > 8)


def test_experts_follow_ids_between_calls() -> None:
    arguments = ffn_arguments(5, torch.float32, choices("random", 5))
    thunk = find_binder("cpu.moe_ffn")(arguments)
    thunk()
    for kind in ("same experts", "random"):
        arguments["ids"].copy_(choices(kind, 5))
        thunk()
        inputs = (arguments[name] for name in ("x", "weights", "ids", "gate_up", "down"))
        close(arguments["out"], experts(*inputs))


@pytest.mark.parametrize("name", ["cpu.moe_ffn", "ordered.moe_ffn"])
@pytest.mark.parametrize("tokens", [2, FEW_TOKENS + 1])
@pytest.mark.parametrize("expert", [EXPERTS, -1])
def test_an_expert_that_does_not_exist_is_an_error(name: str, tokens: int, expert: int) -> None:
    require_compiler(name)
    ids = torch.zeros(tokens, 1, dtype=torch.int64)
    ids[-1] = expert
    with pytest.raises(IndexError):
        find_binder(name)(ffn_arguments(tokens, torch.float32, ids))()


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("tokens", [1, 2])
def test_it_is_one_by_torch_too(tokens: int) -> None:
    arguments = ffn_arguments(tokens, torch.float32, torch.full((tokens, 1), -1))
    with pytest.raises(IndexError):
        find_binder("cpu.moe_ffn")(arguments)()


def test_a_router_is_in_float32_once_for_all_buckets() -> None:
    weight = random(8, 16, dtype=torch.bfloat16)
    one = shared_router(weight)
    assert shared_router(weight) is one and shared_router(weight[:4]) is not one
    assert torch.equal(one.transposed, weight.float().t())
