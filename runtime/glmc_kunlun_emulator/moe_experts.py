"""Emulated expert pipeline (record, section 2.9): sort tokens by expert, grouped GEMM, combine.

Row order, an inference of the record's: between `moe_pre_sorted` and `moe_post` all buffers hold
their M*k rows in *expert-sorted* order, and [M, k, .] is a mere view; moe_index[t*k+j] is the
sorted position of slot (t, j). Only the end of the chain is to be compared with anything.

Foreign experts (id -1, index_have_neg=True): their slots are placed after all others and their rows
are never written, so callers zero the workspace and the scores.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from glmc_runtime.kernels.vendor_functions.experts import CLUSTERS
from glmc_runtime.kernels.vendor_functions.row import Arguments

from . import sums
from .contract import (
    FLOATS,
    emulates,
    require,
    require_dtype,
    require_guard,
    require_shape,
)
from .errors import UnmodelledError
from .quantise import INT8_MAX, int8_product

WRONG_FUSED_ACTIVATION_TOKENS = 1024
HALF_WIDTH_FUSED_ACTIVATION_TOKENS = 2048
WRONG_FUSED_ACTIVATION_FACTOR = 21.0  # measured: about 2000 % relative error


def sort_by_expert(ids: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stable order of the flattened ids [M*k] (negative ids last) and prefix counts [E+1]."""
    flat = ids.reshape(-1).long()
    order = torch.sort(torch.where(flat < 0, experts, flat), stable=True).indices
    counts = torch.bincount(flat[flat >= 0], minlength=experts)
    return order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _guard_ids(place: str, ids: torch.Tensor, experts: int, index_have_neg: bool) -> None:
    if not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    require_guard(
        low >= (-1 if index_have_neg else 0) and high < experts,
        f"{place}(topk ids)",
        f"expert ids in [{-1 if index_have_neg else 0}, {experts})",
        f"[{low}, {high}]",
        "ids of foreign experts are -1 and need index_have_neg=True",
    )


def _guard_pre_sorted(arguments: Arguments) -> None:
    place, ids = "moe_pre_sorted", arguments["topk_index"]
    lod, histogram = arguments["sorted_tokens_num_lod"], arguments["block_statistic"]
    experts = lod.shape[0] - 1
    _guard_ids(place, ids, experts, arguments["index_have_neg"])
    for name in ("sorted_tokens_num_lod", "expert_m"):
        require_guard(
            not bool(arguments[name].any()),
            f"{place}({name}=)",
            "zeros",
            "numbers of an earlier step",
            "zero it in each step, inside the captured graph",
        )
    if histogram is not None and tuple(histogram.shape) == (CLUSTERS, experts):
        flat = ids.reshape(-1).long()
        counts = torch.bincount(flat[flat >= 0], minlength=experts)
        require_guard(
            torch.equal(histogram.sum(dim=0).long(), counts),
            f"{place}(block_statistic=)",
            "the histogram of topk_index",
            "other counts",
            "zero it, then let the router or gen_block_statistic fill it, once",
        )


@emulates("moe_pre_sorted", guard=_guard_pre_sorted)
def moe_pre_sorted(
    x: torch.Tensor,
    topk_index: torch.Tensor,
    block_statistic: torch.Tensor | None,
    moe_expand: torch.Tensor,
    moe_index: torch.Tensor,
    expert_m: torch.Tensor,
    sorted_tokens_num_lod: torch.Tensor,
    index_have_neg: bool,
) -> None:
    """Rows of x [M, H] in expert order.

    topk_index int32 [M, k]; block_statistic int32 [12, E] (the counts come from it when given);
    moe_expand [M*k, H]; moe_index int32 [M*k]; expert_m int32 [E] and sorted_tokens_num_lod int32
    [E+1], both zeroed by the caller.
    """
    place = "moe_pre_sorted"
    require_dtype(place, "x", x, *FLOATS, torch.int8)
    require(x.dim() == 2, f"{place}(x=)", "[M, H]", tuple(x.shape))
    tokens, hidden = x.shape
    top_k, experts = topk_index.shape[-1], expert_m.shape[0]
    require_shape(place, "topk_index", topk_index, (tokens, top_k))
    require_shape(place, "moe_expand", moe_expand, (tokens * top_k, hidden))
    require_dtype(place, "moe_expand", moe_expand, x.dtype)
    require_shape(place, "moe_index", moe_index, (tokens * top_k,))
    require_shape(place, "sorted_tokens_num_lod", sorted_tokens_num_lod, (experts + 1,))
    for name, tensor in (
        ("topk_index", topk_index),
        ("moe_index", moe_index),
        ("expert_m", expert_m),
        ("sorted_tokens_num_lod", sorted_tokens_num_lod),
    ):
        require_dtype(place, name, tensor, torch.int32)
    order, lod = sort_by_expert(topk_index, experts)
    present = int(lod[-1])
    if block_statistic is not None:
        require_dtype(place, "block_statistic", block_statistic, torch.int32)
        require_shape(place, "block_statistic", block_statistic, (CLUSTERS, experts))
        counts = block_statistic.sum(dim=0).long()
        lod = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = torch.arange(tokens * top_k, dtype=torch.int32, device=x.device)
    moe_index[order] = rows
    moe_expand[:present] = x[torch.div(order[:present], top_k, rounding_mode="floor")]
    expert_m.copy_(lod.diff())
    sorted_tokens_num_lod.copy_(lod)


@emulates("moe_fc")
def moe_fc(
    x: torch.Tensor,
    weight: torch.Tensor,
    sorted_tokens_num_lod: torch.Tensor,
    sorted_tokens_idx: torch.Tensor,
    moe_topk: int,
    y: torch.Tensor,
    act: str | None,
    x_perchannel_max: torch.Tensor | None,
    w_perchannel_max: torch.Tensor | None,
    topk_ids: torch.Tensor | None,
) -> None:
    """Grouped GEMM: rows lod[e]:lod[e+1] of x [M*k, K] times weight[e]^T, weight [E, N, K].

    y holds M*k rows of N, in the same sorted order whatever its shape says. int8: x_perchannel_max
    fp32 [M*k, 1] and w_perchannel_max fp32 [E, N, 1], absmax. Keep `act` None: "SWISH_GLU" leaves
    silu(gate) * up in y[..., :N/2] for M < 1024 and wrong numbers from there on, except with fp16,
    M >= 2048 and a y of half width.
    """
    place = "moe_fc"
    require_dtype(place, "x", x, *FLOATS, torch.int8)
    require(x.dim() == 2, f"{place}(x=)", "[M*k, K]", tuple(x.shape))
    require(weight.dim() == 3, f"{place}(weight=)", "[E, N, K]", tuple(weight.shape))
    require_dtype(place, "weight", weight, x.dtype)
    rows, inner = x.shape
    experts, width, _ = weight.shape
    require_shape(place, "weight", weight, (experts, width, inner))
    require_dtype(place, "sorted_tokens_num_lod", sorted_tokens_num_lod, torch.int32)
    require_shape(place, "sorted_tokens_num_lod", sorted_tokens_num_lod, (experts + 1,))
    require_dtype(place, "sorted_tokens_idx", sorted_tokens_idx, torch.int32)
    require_shape(place, "sorted_tokens_idx", sorted_tokens_idx, (rows,))
    require(rows % moe_topk == 0, f"{place}(moe_topk=)", f"a divisor of {rows}", moe_topk)
    if topk_ids is not None:
        require_shape(place, "topk_ids", topk_ids, (rows // moe_topk, moe_topk))
    quantised = x.dtype == torch.int8
    require_dtype(place, "y", y, *(FLOATS[1:] if quantised else (x.dtype,)))
    half_width = act is not None and y.numel() == rows * (width // 2)
    require(
        half_width or y.numel() == rows * width,
        f"{place}(y=)",
        f"{rows} rows of {width}",
        tuple(y.shape),
    )
    lod = sorted_tokens_num_lod.tolist()
    require(
        lod[0] == 0 and lod[-1] <= rows and all(a <= b for a, b in pairwise(lod)),
        f"{place}(sorted_tokens_num_lod=)",
        f"a rising prefix sum from 0 to at most {rows}",
        f"ends with {lod[-1]}",
    )
    x_factor = w_factor = None
    if quantised:
        if x_perchannel_max is None or w_perchannel_max is None:
            require(False, place, "x_perchannel_max and w_perchannel_max for int8", "None")
        else:
            require_dtype(place, "x_perchannel_max", x_perchannel_max, torch.float32)
            require_dtype(place, "w_perchannel_max", w_perchannel_max, torch.float32)
            require_shape(place, "x_perchannel_max", x_perchannel_max, (rows, 1))
            require_shape(place, "w_perchannel_max", w_perchannel_max, (experts, width, 1))
            x_factor = x_perchannel_max / INT8_MAX
            w_factor = w_perchannel_max[..., 0] / INT8_MAX
    target = y.view(rows, -1)
    for expert, (start, stop) in enumerate(pairwise(lod)):
        if start == stop:
            continue
        if x_factor is not None and w_factor is not None:
            product = int8_product(x[start:stop], weight[expert])
            product = (product * x_factor[start:stop] * w_factor[expert]).float()
        else:
            product = sums.product(x[start:stop], weight[expert])
        if act is None:
            target[start:stop] = product
        else:
            activated = _fused_activation(place, act, product, rows // moe_topk, half_width, x)
            target[start:stop, : activated.shape[-1]] = activated


def _fused_activation(
    place: str, act: str, product: torch.Tensor, tokens: int, half_width: bool, x: torch.Tensor
) -> torch.Tensor:
    if act != "SWISH_GLU":
        raise UnmodelledError(f"{place}(act=)", expected="None or 'SWISH_GLU'", found=repr(act))
    gate, up = product.chunk(2, dim=-1)
    activated = sums.silu_times(gate, up)
    right = half_width and x.dtype == torch.float16
    right = right and tokens >= HALF_WIDTH_FUSED_ACTIVATION_TOKENS
    if tokens >= WRONG_FUSED_ACTIVATION_TOKENS and not right:
        activated = activated * WRONG_FUSED_ACTIVATION_FACTOR
    return activated


def _guard_post(arguments: Arguments) -> None:
    index = arguments["moe_index"]
    if index.numel():
        low, high = int(index.min()), int(index.max())
        require_guard(
            low >= 0 and high < index.numel(),
            "moe_post(moe_index=)",
            f"sorted positions in [0, {index.numel()})",
            f"[{low}, {high}]",
            "pass the moe_index of moe_pre_sorted, reshaped to [M, k]",
        )


@emulates("moe_post", guard=_guard_post)
def moe_post(
    x: torch.Tensor,
    moe_index: torch.Tensor,
    normed_scale: torch.Tensor,
    dequant_scale: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """y[t] = sum_j normed_scale[t,j] * dequant_scale[t,j] * x.view(M*k, H)[moe_index[t,j]].

    x [M, k, H] in sorted order, moe_index int32 [M, k], both scales fp32 [M, k], y [M, H].
    """
    place = "moe_post"
    require_dtype(place, "x", x, *FLOATS)
    require(x.dim() == 3, f"{place}(x=)", "[M, k, H]", tuple(x.shape))
    tokens, top_k, hidden = x.shape
    require_dtype(place, "moe_index", moe_index, torch.int32)
    require_shape(place, "moe_index", moe_index, (tokens, top_k))
    for name, scale in (("normed_scale", normed_scale), ("dequant_scale", dequant_scale)):
        require_dtype(place, name, scale, torch.float32)
        require_shape(place, name, scale, (tokens, top_k))
    require_shape(place, "y", y, (tokens, hidden))
    require_dtype(place, "y", y, x.dtype)
    rows = x.view(tokens * top_k, hidden)[moe_index.reshape(-1).long()].float()
    y.copy_(sums.weighted(rows.view(tokens, top_k, hidden), normed_scale * dequant_scale))
