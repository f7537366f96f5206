"""The sigmoid gate with correction bias, the routed experts and the shared expert."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.ir.ops.facts import Cut, OpFacts, Sharding
from glmc.ir.ops.linear import linear_flops, swiglu
from glmc.ir.ops.registry import Numerics, define


def gate_scores(x: Tensor, weight: Tensor) -> Tensor:
    """How much a token is for each expert, float32 [tokens, experts]."""
    return F.linear(x.float(), weight.float()).sigmoid()


def scores_of_groups(choice: Tensor, groups: int) -> Tensor:
    """Of biased scores [tokens, experts], the sum of the two best of each group of experts."""
    by_group = choice.view(*choice.shape[:-1], groups, -1)
    return by_group.topk(2, -1)[0].sum(-1)


def moe_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    top_k: int,
    groups: int,
    top_groups: int,
    group_fill: float,
    normalize: bool,
    normalize_eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Choose experts on biased scores, weigh them with unbiased ones; all in float32.

    x [tokens, hidden], weight [experts, hidden], bias float32 [experts]. Scores of experts outside
    the ``top_groups`` best groups (by the sum of their two best biased scores) become
    ``group_fill`` (0.0 up to transformers 5.5, -inf later) before the choice. Returns weights
    float32 [tokens, top_k] (divided by their sum + ``normalize_eps`` when ``normalize``, then
    times ``scale``) and expert ids int64 [tokens, top_k].
    """
    scores = gate_scores(x, weight)
    choice = scores + bias
    if groups != top_groups:
        group_scores = scores_of_groups(choice, groups)
        best_groups = group_scores.topk(top_groups, -1, sorted=False)[1]
        in_best = torch.zeros_like(group_scores).scatter_(1, best_groups, 1.0).bool()
        by_group = choice.view(*choice.shape[:-1], groups, -1)
        choice = by_group.masked_fill(~in_best.unsqueeze(-1), group_fill).flatten(1)
    ids = choice.topk(top_k, -1, sorted=False)[1]
    weights = scores.gather(1, ids)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + normalize_eps)
    return weights * scale, ids


def moe_ffn(x: Tensor, weights: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The routed experts: ``out[t] = sum_j weights[t, j] * expert[ids[t, j]](x[t])``.

    x [tokens, hidden], weights float32 and ids int64 [tokens, top_k], gate_up [experts, 2 * width,
    hidden] (gate rows first), down [experts, hidden, width]. Products with the weights and the
    sum are float32; one cast to the dtype of x at the end.
    """
    out = torch.zeros(ids.shape[0], ids.shape[1], x.shape[-1], dtype=torch.float32, device=x.device)
    for expert in ids.unique().tolist():
        token, slot = torch.where(ids == expert)
        result = F.linear(swiglu(F.linear(x[token], gate_up[expert])), down[expert])
        out[token, slot] = result.float() * weights[token, slot].unsqueeze(-1)
    return out.sum(1).to(x.dtype)


def local_moe_ffn(
    x: Tensor, weights: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor, first: Tensor
) -> Tensor:
    """``moe_ffn`` of the experts that are in ``gate_up`` and ``down``, the model's from ``first``
    (int64 [1]) on; those of other ids contribute nothing."""
    local = ids - first
    mine = (local >= 0) & (local < gate_up.shape[0])
    out = torch.zeros(ids.shape[0], ids.shape[1], x.shape[-1], dtype=torch.float32, device=x.device)
    for expert in local[mine].unique().tolist():
        token, slot = torch.where(mine & (local == expert))
        result = F.linear(swiglu(F.linear(x[token], gate_up[expert])), down[expert])
        out[token, slot] = result.float() * weights[token, slot].unsqueeze(-1)
    return out.sum(1).to(x.dtype)


def shared_expert(x: Tensor, gate_up: Tensor, down: Tensor, routed: Tensor) -> Tensor:
    """``routed + linear(swiglu(linear(x, gate_up)), down)``; x and routed [..., hidden]."""
    return routed + F.linear(swiglu(F.linear(x, gate_up)), down)


def moe_ffn_shared(
    x: Tensor,
    weights: Tensor,
    ids: Tensor,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor,
    shared_down: Tensor,
) -> Tensor:
    """``moe_ffn`` of the routed experts plus the shared expert, both over x [tokens, hidden]."""
    routed = moe_ffn(x, weights, ids, gate_up, down)
    return shared_expert(x, shared_gate_up, shared_down, routed)


def _gate_fake(
    x: Tensor, weight: Tensor, bias: Tensor, top_k: int, *_: object
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty((x.shape[0], top_k), dtype=torch.float32),
        x.new_empty((x.shape[0], top_k), dtype=torch.int64),
    )


def _experts_flops(ids: Tensor, gate_up: Tensor, down: Tensor) -> int:
    """Of the routed experts of :func:`moe_ffn`."""
    return 2 * ids.numel() * (gate_up[0].numel() + down[0].numel())


def _experts_read(ids: Tensor, stacked: Tensor) -> int:
    """Elements of stacked weights that are read where all tokens choose different experts."""
    return min(ids.numel(), stacked.shape[0]) * stacked[0].numel()


def _shared_flops(x: Tensor, gate_up: Tensor, down: Tensor) -> int:
    return 2 * (x.numel() // x.shape[-1]) * (gate_up.numel() + down.numel())


EXPERTS = OpFacts(
    tokens=("x", "weights", "ids"),
    summed=(("gate_up", -1), ("down", -1), ("weights", -1)),
    flops=_experts_flops,
    accessed={
        "gate_up": lambda ids, gate_up: _experts_read(ids, gate_up),
        "down": lambda ids, down: _experts_read(ids, down),
    },
    shardings=(
        Sharding(
            "experts",
            {"gate_up": Cut(0), "down": Cut(0)},
            ("sum",),
            index="ids",
            op="local_moe_ffn",
        ),
        Sharding("row", {"gate_up": Cut(1, sections=2), "down": Cut(2)}, ("sum",)),
    ),
    strided=(),
    float32=("weights",),
    chosen={"ids": ("gate_up", "down")},
)
"""Facts of the routed experts, in whatever order an op takes their operands."""
_SHARED_ROW = {"shared_gate_up": Cut(0, sections=2), "shared_down": Cut(1)}

MOE_GATE = define(
    "moe_gate(Tensor x, Tensor weight, Tensor bias, int top_k, int groups, int top_groups, "
    "float group_fill, bool normalize, float normalize_eps, float scale) -> (Tensor, Tensor)",
    Numerics.BITWISE,
    moe_gate,
    _gate_fake,
    OpFacts(
        tokens=("x",),
        summed=(("weight", -1),),
        flops=linear_flops,
        accessed={},
        shardings=(),
        strided=(),
        float32=("bias",),
        any_dtype=("x", "weight"),
    ),
)
MOE_FFN = define(
    "moe_ffn(Tensor x, Tensor weights, Tensor ids, Tensor gate_up, Tensor down) -> Tensor",
    Numerics.REORDERED,
    moe_ffn,
    lambda x, weights, ids, gate_up, down: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    EXPERTS,
)
LOCAL_MOE_FFN = define(
    "local_moe_ffn(Tensor x, Tensor weights, Tensor ids, Tensor gate_up, Tensor down, "
    "Tensor first) -> Tensor",
    Numerics.REORDERED,
    local_moe_ffn,
    lambda x, weights, ids, gate_up, down, first: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    replace(EXPERTS, shardings=()),
)
SHARED_EXPERT = define(
    "shared_expert(Tensor x, Tensor gate_up, Tensor down, Tensor routed) -> Tensor",
    Numerics.BITWISE,
    shared_expert,
    lambda x, gate_up, down, routed: torch.empty_like(
        routed, memory_format=torch.contiguous_format
    ),
    OpFacts(
        tokens=("x", "routed"),
        summed=(("gate_up", -1), ("down", -1)),
        flops=_shared_flops,
        accessed={},
        shardings=(
            Sharding(
                "row",
                {"gate_up": Cut(0, sections=2), "down": Cut(1), "routed": "first"},
                ("sum",),
            ),
        ),
        strided=(),
    ),
)
MOE_FFN_SHARED = define(
    "moe_ffn_shared(Tensor x, Tensor weights, Tensor ids, Tensor gate_up, Tensor down, "
    "Tensor shared_gate_up, Tensor shared_down) -> Tensor",
    Numerics.REORDERED,
    moe_ffn_shared,
    lambda x, weights, ids, gate_up, down, shared_gate_up, shared_down: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    replace(
        EXPERTS,
        summed=(*EXPERTS.summed, ("shared_gate_up", -1), ("shared_down", -1)),
        flops=lambda x, ids, gate_up, down, shared_gate_up, shared_down: (
            _experts_flops(ids, gate_up, down) + _shared_flops(x, shared_gate_up, shared_down)
        ),
        shardings=tuple(
            replace(sharding, operands={**sharding.operands, **_SHARED_ROW})
            for sharding in EXPERTS.shardings
            if sharding.op is None
        ),
    ),
)
