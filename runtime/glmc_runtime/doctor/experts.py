"""The expert kernels as one chain: tokens and routing in, the weighted sum out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from glmc_runtime.doctor.bench import Bench
from glmc_runtime.doctor.hostile import fill_kind
from glmc_runtime.doctor.references import Outcome, compare
from glmc_runtime.errors import PlanError

CHAIN_FIRST, CHAIN_LAST = "moe_pre_sorted", "moe_post"


@dataclass(frozen=True)
class Chain:
    """Where the result of a filled chain will be, and what it must be."""

    result: torch.Tensor
    expected: torch.Tensor


def fill_chain(bench: Bench, members: list[int], kind: str) -> Chain:
    """Fill the inputs of the calls ``members`` and compute what comes out of the last.

    "ties" sends every token to the same experts, so that one group is full and others are empty.
    """
    calls = {
        position: bench.plan.calls[position].function.partition(".")[2] for position in members
    }
    first, last = _one(bench, calls, CHAIN_FIRST), _one(bench, calls, CHAIN_LAST)
    products = [bench.arguments(place) for place, name in calls.items() if name == "moe_fc"]
    if len(products) != 2:
        raise PlanError("the experts are not two grouped products", found=str(len(products)))
    gate_up, down = (product["weight"] for product in products)
    # First what is born late: it may share memory with what is alive before.
    last["y"].fill_(float("nan"))
    last["dequant_scale"].fill_(1.0)
    for name in ("expert_m", "sorted_tokens_num_lod"):
        first[name].zero_()
    weights = torch.rand(tuple(last["normed_scale"].shape), generator=bench.generator)
    last["normed_scale"].copy_(weights)
    ids = _route(bench, first["topk_index"].shape, gate_up.shape[0], kind)
    first["topk_index"].copy_(ids)
    if first.get("block_statistic") is not None:
        first["block_statistic"].zero_()
        counts = torch.bincount(ids.reshape(-1), minlength=gate_up.shape[0])
        first["block_statistic"][0].copy_(counts)
    fill_kind(first["x"], kind, bench.generator, low=-30.0)
    return Chain(last["y"], _expected(first["x"].cpu(), ids, weights, gate_up, down))


def judge_chain(chain: Chain) -> Outcome:
    """Compare after the calls have run."""
    return compare(chain.result, chain.expected, "y")


def _one(bench: Bench, calls: dict[int, str], name: str) -> dict[str, Any]:
    places = [place for place, function in calls.items() if function == name]
    if len(places) != 1:
        raise PlanError(f"the chain of the experts has {len(places)} calls of {name}")
    return bench.arguments(places[0])


def _route(bench: Bench, shape: torch.Size, experts: int, kind: str) -> torch.Tensor:
    """Different experts for each token, [tokens, top_k]."""
    tokens, top_k = shape
    if kind == "ties":
        return torch.arange(top_k).flip(0).repeat(tokens, 1)
    scores = torch.rand((tokens, experts), generator=bench.generator)
    return scores.topk(top_k).indices


def _expected(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    """y[t] = sum_j weights[t, j] * down[e] @ (silu(gate) * up) with e = ids[t, j]."""
    result = torch.zeros(len(x), down.shape[1], dtype=torch.float64)
    for expert in ids.unique().tolist():
        token, place = (ids == expert).nonzero(as_tuple=True)
        gate, up = (x[token].double() @ gate_up[expert].double().cpu().T).chunk(2, -1)
        out = (gate * torch.sigmoid(gate) * up) @ down[expert].double().cpu().T
        result.index_add_(0, token, out * weights[token, place].double().unsqueeze(-1))
    return result
