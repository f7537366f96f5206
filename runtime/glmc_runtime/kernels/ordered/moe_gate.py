"""The router in a fixed order of sums: product, sigmoid and the sum of the chosen weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register, schema_of
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.moe_gate import shared_router
from glmc_runtime.kernels.ordered.native import product, sigmoid
from glmc_runtime.kernels.router import SIGMOID_GROUP_TOPK, choose_experts, chosen


@register("ordered.moe_gate", schema_of("cpu.moe_gate"))
def moe_gate(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.moe_gate``, scratch included."""
    x, weight, ids = arguments["x"], arguments["weight"], arguments["ids"]
    x_float, logits = arguments["x_float"], arguments["logits"]
    require_dtype("ids", ids, torch.int64)
    require_shape("weight", weight, (weight.shape[0], x.shape[1]))
    require_shape("logits", logits, (ids.shape[0], weight.shape[0]))
    router = shared_router(weight)
    score = product(x_float, router.transposed.t(), logits)
    score.__dict__["router"] = router  # the next bucket finds it while this one is bound
    return in_order(
        partial(x_float.copy_, x),
        score,
        sigmoid(logits),
        *choose_experts(arguments, logits, in_slot_order),
    )


@register("ordered.sigmoid_group_topk", SIGMOID_GROUP_TOPK)
def sigmoid_group_topk(arguments: dict[str, Any]) -> Thunk:
    """As ``router.sigmoid_group_topk``."""

    def score(logits: torch.Tensor, scores: torch.Tensor) -> Thunk:
        return in_order(partial(scores.copy_, logits), sigmoid(scores))

    return chosen(arguments, score, in_slot_order)


def in_slot_order(weights: torch.Tensor, sums: torch.Tensor) -> Thunk:
    """``sums`` [rows, 1] of ``weights`` [rows, slots], one slot after the other."""
    first, *others = weights.split(1, dim=-1)
    return in_order(partial(sums.copy_, first), *(partial(sums.add_, other) for other in others))
