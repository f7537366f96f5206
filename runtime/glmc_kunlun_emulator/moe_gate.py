"""Emulated MoE routing (record, section 2.8).

Outputs are fp32 weights and int32 expert ids [M, k], best expert first, ties to the lower id. The
histogram block_statistic int32 [12, E] counts, for each of 12 clusters, how often an expert was
chosen; which cluster takes which token is not public (here: equal runs of tokens), only the column
sums are used. The kernels here *add* to it: some callers pass it zeroed, some uninitialised, and
code that forgets to zero must be noticed, so guard mode refuses one that is not zero.
"""

from __future__ import annotations

import torch

from glmc_runtime.kernels.vendor_functions.experts import CLUSTERS, MOST_EXPERTS
from glmc_runtime.kernels.vendor_functions.row import Arguments

from . import sums
from .contract import (
    emulates,
    require,
    require_dtype,
    require_guard,
    require_shape,
)


def _guard_histogram(arguments: Arguments) -> None:
    histogram = arguments["block_statistic"]
    require_guard(
        histogram is None or not bool(histogram.any()),
        "block_statistic",
        "a zeroed histogram",
        "counts of an earlier step",
        "zero it in each step, inside the captured graph",
    )


def add_histogram(topk_ids: torch.Tensor, histogram: torch.Tensor) -> None:
    """histogram [12, E] += counts of ids [M, k] by cluster; negative ids are not counted."""
    tokens, experts = topk_ids.shape[0], histogram.shape[1]
    if tokens == 0:
        return
    cluster = torch.arange(tokens, device=topk_ids.device) * CLUSTERS // tokens
    flat = (cluster.unsqueeze(-1) * experts + topk_ids.long()).reshape(-1)
    flat = flat[topk_ids.reshape(-1) >= 0]
    counts = torch.bincount(flat, minlength=CLUSTERS * experts).view(CLUSTERS, experts)
    histogram.add_(counts.to(histogram.dtype))


def _check(
    place: str,
    x: torch.Tensor,
    topk_index: torch.Tensor,
    score: torch.Tensor,
    histogram: torch.Tensor | None,
    *dtypes: torch.dtype,
) -> None:
    require_dtype(place, "x", x, *dtypes)
    require(x.dim() == 2, f"{place}(x=)", "[M, E]", tuple(x.shape))
    tokens, experts = x.shape
    require_dtype(place, "topk_index", topk_index, torch.int32)
    require_dtype(place, "norm_score", score, torch.float32)
    top_k = topk_index.shape[-1]
    require(top_k <= experts, f"{place}(topk_index=)", f"k <= {experts}", top_k)
    require_shape(place, "topk_index", topk_index, (tokens, top_k))
    require_shape(place, "norm_score", score, (tokens, top_k))
    if histogram is not None:
        require_dtype(place, "block_statistic", histogram, torch.int32)
        require_shape(place, "block_statistic", histogram, (CLUSTERS, experts))


def _best(values: torch.Tensor, count: int) -> torch.Tensor:
    """Ids of the `count` largest, best first, ties to the lower id."""
    return torch.sort(values, dim=-1, descending=True, stable=True).indices[..., :count]


def _group_top_k(
    place: str, choice: torch.Tensor, top_k: int, n_group: int, topk_group: int
) -> torch.Tensor:
    tokens, experts = choice.shape
    require(
        n_group >= 1 and experts % n_group == 0 and 1 <= topk_group <= n_group,
        f"{place}(n_group=, topk_group=)",
        f"groups that divide {experts}, and 1 <= topk_group <= n_group",
        (n_group, topk_group),
        "ungrouped routing is (1, 1)",
    )
    if n_group > 1:
        members = choice.view(tokens, n_group, -1)
        strength = members.topk(min(2, members.shape[-1]), dim=-1).values.sum(dim=-1)
        chosen = torch.zeros_like(strength, dtype=torch.bool)
        chosen.scatter_(1, _best(strength, topk_group), True)
        choice = members.masked_fill(~chosen.unsqueeze(-1), float("-inf")).view(tokens, experts)
    return _best(choice, top_k)


@emulates("moe_sigmoid_group_topk_norm", guard=_guard_histogram)
def moe_sigmoid_group_topk_norm(
    x: torch.Tensor,
    topk_index: torch.Tensor,
    norm_score: torch.Tensor,
    block_statistic: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
    n_group: int,
    topk_group: int,
) -> None:
    """s = sigmoid(x fp32 [M, E]); keep the topk_group groups with the largest sum of their two best
    s + bias; take the top k of s + bias among them; norm_score = s / sum(s) * scale, always
    renormalised. Above 512 experts nothing is written and nothing is reported.
    """
    place = "moe_sigmoid_group_topk_norm"
    _check(place, x, topk_index, norm_score, block_statistic, torch.float32)
    experts = x.shape[1]
    if bias is not None:
        require_dtype(place, "bias", bias, torch.float32)
        require_shape(place, "bias", bias, (experts,))
    if experts > MOST_EXPERTS:
        return  # the wheel ignores the kernel's code here: the outputs are never written
    scores = sums.sigmoid(x)
    choice = scores if bias is None else scores + bias
    ids = _group_top_k(place, choice, topk_index.shape[1], n_group, topk_group)
    weights = scores.gather(1, ids)
    norm_score.copy_(weights / sums.of_slots(weights) * scale)
    topk_index.copy_(ids)
    if block_statistic is not None:
        add_histogram(topk_index, block_statistic)


@emulates("gen_block_statistic", guard=_guard_histogram)
def gen_block_statistic(topk_ids: torch.Tensor, block_statistic: torch.Tensor) -> None:
    """Histogram of ids int32 [M, k] into a zeroed block_statistic int32 [12, E]."""
    place = "gen_block_statistic"
    require_dtype(place, "topk_ids", topk_ids, torch.int32)
    require(topk_ids.dim() == 2, f"{place}(topk_ids=)", "[M, k]", tuple(topk_ids.shape))
    require_dtype(place, "block_statistic", block_statistic, torch.int32)
    require_shape(place, "block_statistic", block_statistic, (CLUSTERS, block_statistic.shape[-1]))
    add_histogram(topk_ids, block_statistic)
