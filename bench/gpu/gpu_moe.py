"""The MoE layer alone, at nearly the Air shape: the experts, and the router before them.

One device graph holds several calls with ids of their own, so that no expert that is read is in the
cache. A call's ids are distinct as far as the experts go: the most bytes that it can have to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.gpu_results import Results
from bench.gpu.gpu_timing import captured, device_times
from glmc_runtime.kernels import find_binder

TOKENS = (1, 2, 8, 16, 32, 64)
WORST_ERROR = 1e-2  # relative; results are rounded to bfloat16
INTERPRETED_ERROR = 3e-2  # Triton's interpreter cuts to bfloat16 where a device rounds


@dataclass(frozen=True)
class Shape:
    hidden: int = 4096
    width: int = 1536
    experts: int = 128
    top_k: int = 8

    @property
    def expert_bytes(self) -> int:
        return 3 * self.hidden * self.width * 2


QUICK = Shape(64, 32, 8, 2)


@dataclass(frozen=True)
class Layer:
    """Random weights of one layer."""

    shape: Shape
    gate_up: Tensor
    down: Tensor
    gate: Tensor
    bias: Tensor

    @staticmethod
    def random(shape: Shape, device: torch.device) -> Layer:
        def draw(*size: int) -> Tensor:
            tensor = torch.empty(size, dtype=torch.bfloat16, device=device)
            return tensor.normal_(0.0, 0.02)

        return Layer(
            shape,
            draw(shape.experts, 2 * shape.width, shape.hidden),
            draw(shape.experts, shape.hidden, shape.width),
            draw(shape.experts, shape.hidden),
            torch.zeros(shape.experts, device=device).normal_(0.0, 0.01),
        )


def distinct_ids(shape: Shape, tokens: int, calls: int, seed: int = 0) -> list[Tensor]:
    """Ids [tokens, top_k] of each call, distinct in it until all experts are taken.

    They are dealt from shuffled decks of all experts, one deck after the other and on through the
    calls, so a call of few tokens reads other experts than the one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    assert shape.experts % shape.top_k == 0
    needed = tokens * calls * shape.top_k
    decks = [
        torch.randperm(shape.experts, generator=generator)
        for _ in range(-(-needed // shape.experts))
    ]
    dealt = torch.cat(decks)[:needed]
    return list(dealt.view(calls, tokens, shape.top_k).unbind(0))


def reference(layer: Layer, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """In float32, expert by expert; gate, up and their product rounded as eager does."""
    out = torch.zeros(x.shape, device=x.device)
    for expert in ids.unique().tolist():
        rows, places = (ids == expert).nonzero(as_tuple=True)
        merged = x[rows].float() @ layer.gate_up[expert].float().T
        gate, up = merged.bfloat16().chunk(2, -1)
        activated = (F.silu(gate) * up).float()
        result = activated @ layer.down[expert].float().T
        out.index_add_(0, rows, result * weights[rows, places].unsqueeze(-1))
    return out


def moe(results: Results, device: torch.device, target: str) -> None:
    """Measure and check ``moe_ffn`` and ``moe_gate`` with it at each number of tokens."""
    shape = QUICK if results.quick else Shape()
    torch.manual_seed(0)
    layer = Layer.random(shape, device)
    for tokens in (1, 2, 8) if results.quick else TOKENS:
        # Enough experts pass by for the 50 or 60 MB of a cache to be overwritten several times.
        calls = 2 if results.quick else max(16 // tokens, 4)
        for gated in (False, True):
            results.attempt(
                f"moe {tokens} tokens{', gate in front' if gated else ''}",
                lambda tokens=tokens, calls=calls, gated=gated: _measure(
                    results, layer, tokens, calls, gated, target
                ),
            )


@torch.inference_mode()
def _measure(
    results: Results, layer: Layer, tokens: int, calls: int, gated: bool, target: str
) -> None:
    shape, device = layer.shape, layer.gate.device
    dealt = [ids.to(device) for ids in distinct_ids(shape, tokens, calls)]
    thunks, sets = [], []
    for ids in dealt:
        x = torch.randn(tokens, shape.hidden, device=device).bfloat16()
        weights = torch.rand(tokens, shape.top_k, device=device)
        weights /= weights.sum(-1, keepdim=True)
        out = torch.full_like(x, torch.nan)
        if gated:
            ids.fill_(-1)
            thunks.append(find_binder(f"{target}.moe_gate")(_gate(layer, x, weights, ids)))
        thunks.append(
            find_binder(f"{target}.moe_ffn")(
                {
                    "x": x,
                    "weights": weights,
                    "ids": ids,
                    "gate_up": layer.gate_up,
                    "down": layer.down,
                    "shared_gate_up": None,
                    "shared_down": None,
                    "out": out,
                }
            )
        )
        sets.append((x, weights, ids, out))
    graph = captured(thunks, device)
    times = device_times(graph.replay, device, 5, 2 if results.quick else 10)
    read = sum(len(ids.unique()) for _, _, ids, _ in sets) / calls
    what = "moe_gate + moe_ffn" if gated else "moe_ffn"
    results.time(
        [value / calls for value in times],
        model="moe",
        what=what,
        peer="glmc",
        size=tokens,
        read=read * shape.expert_bytes + (layer.gate.nbytes if gated else 0),
        experts_read=read,
        calls=calls,
        launches=None if graph.nodes is None else graph.nodes / calls,
    )
    x, weights, ids, out = sets[-1]
    if gated:
        _check_gate(results, layer, x, weights, ids)
    expected = reference(layer, x, weights, ids)
    error = float((out.float() - expected).norm() / expected.norm())
    limit = WORST_ERROR if device.type == "cuda" else INTERPRETED_ERROR
    passed = bool(out.isfinite().all()) and error <= limit
    name = f"{what} of {tokens} tokens against float32"
    results.check(name, passed, relative_error=error, limit=limit)


def _gate(layer: Layer, x: Tensor, weights: Tensor, ids: Tensor) -> dict[str, Any]:
    return {
        "x": x,
        "weight": layer.gate,
        "bias": layer.bias,
        "groups": 1,
        "top_groups": 1,
        "group_fill": float("-inf"),
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 1.0,
        "logits": torch.empty(len(x), layer.shape.experts, device=x.device),
        "weights": weights,
        "ids": ids,
    }


def _check_gate(results: Results, layer: Layer, x: Tensor, weights: Tensor, ids: Tensor) -> None:
    """Scores of the chosen are the highest, up to what float32 sums may differ by, and the weights
    are theirs."""
    scores = (x.double() @ layer.gate.double().T).sigmoid()
    choice = scores + layer.bias.double()
    least = choice.gather(1, ids).min(-1).values
    best = choice.topk(layer.shape.top_k).values[:, -1]
    expected = scores.gather(1, ids)
    expected /= expected.sum(-1, keepdim=True)
    worse = float((best - least).max())
    error = float((weights - expected).abs().max())
    distinct = all(len(row.unique()) == layer.shape.top_k for row in ids)
    passed = distinct and worse <= 1e-5 and error <= 1e-5
    name = f"moe_gate of {len(x)} tokens against float64"
    results.check(name, passed, chosen_worse_by=worse, weights_off_by=error, distinct=distinct)
