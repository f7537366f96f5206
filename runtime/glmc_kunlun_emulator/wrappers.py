"""The plugin's `_C` wrappers, with the arguments they lose (record, section 2.0).

They declare no mutated arguments although they mutate; here they are plain functions, so that only
the loss of arguments is modelled.
"""

from __future__ import annotations

import torch

from . import activation, moe_experts, moe_gate, norms, rotary
from .contract import vendor_op


@vendor_op("rmsnorm", namespace="_C", outputs=("output",))
def rmsnorm(
    x: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    eps: float = 1e-5,
    interweave: bool = False,
    store_output_before_norm: bool = True,
    bias: torch.Tensor | None = None,
    residual_output: torch.Tensor | None = None,
    output_max: torch.Tensor | None = None,
) -> None:
    """Forwards only x, weight, output and eps."""
    norms.rmsnorm(x, weight, output, eps)


@vendor_op(
    "add_rmsnorm",
    namespace="_C",
    outputs=("output", "residual_output"),
    aliases=(("output", "x"), ("residual_output", "y")),
)
def add_rmsnorm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    eps: float = 1e-5,
    interweaved: bool = False,
    store_output_before_norm: bool = True,
    bias: torch.Tensor | None = None,
    smooth: torch.Tensor | None = None,
    residual_output: torch.Tensor | None = None,
    output_max: torch.Tensor | None = None,
) -> None:
    """Forwards only x, y, residual_output, weight, eps and output."""
    norms.add_rmsnorm(x, y, weight, output, eps, residual_output=residual_output)


@vendor_op("silu_and_mul", namespace="_C", outputs=("out",))
def silu_and_mul(out: torch.Tensor, x: torch.Tensor, axis: int = -1, turn: bool = True) -> None:
    """Ignores axis and turn; the order of arguments is (out, x)."""
    activation.swiglu(x, out)


@vendor_op(
    "rotary_embedding",
    namespace="_C",
    in_place=("query", "key"),
    guard=rotary.guard_positions,
)
def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> None:
    """Forwards everything; in place."""
    rotary.rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox)


@vendor_op(
    "moe_pre_sorted",
    namespace="_C",
    outputs=("moe_expand", "moe_index"),
    in_place=("expert_m", "sorted_tokens_num_lod"),
)
def moe_pre_sorted(
    x: torch.Tensor,
    topk_index: torch.Tensor,
    block_statistic: torch.Tensor | None,
    moe_expand: torch.Tensor,
    moe_index: torch.Tensor,
    expert_m: torch.Tensor,
    sorted_tokens_num_lod: torch.Tensor,
    index_have_neg: bool = False,
) -> None:
    """Ignores index_have_neg."""
    moe_experts.moe_pre_sorted(
        x, topk_index, block_statistic, moe_expand, moe_index, expert_m, sorted_tokens_num_lod
    )


@vendor_op(
    "moe_softmax_topk",
    namespace="_C",
    outputs=("normed_score", "topk_index"),
    in_place=("block_statistic",),
)
def moe_softmax_topk(
    x: torch.Tensor,
    normed_score: torch.Tensor,
    topk_index: torch.Tensor,
    block_statistic: torch.Tensor | None,
    axis: int = -1,
    turn: bool = True,
) -> None:
    """Ignores axis and turn."""
    moe_gate.moe_softmax_topk(x, normed_score, topk_index, block_statistic)


@vendor_op(
    "moe_sigmoid_group_topk_norm",
    namespace="_C",
    outputs=("topk_index", "norm_score"),
    in_place=("block_static",),
)
def moe_sigmoid_group_topk_norm(
    x: torch.Tensor,
    topk_index: torch.Tensor,
    norm_score: torch.Tensor,
    block_static: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
    n_group: int,
    topk_group: int,
) -> None:
    """The plugin's own spelling stays block_static in every profile."""
    moe_gate.moe_sigmoid_group_topk_norm_a(
        x, topk_index, norm_score, block_static, bias, scale, n_group, topk_group
    )
