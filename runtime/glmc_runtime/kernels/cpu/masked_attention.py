"""Attention over the caller's own keys and values, under the caller's mask."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register_traced
from glmc_runtime.kernels.checks import in_order, optional, require_dtype, require_shape
from glmc_runtime.kernels.cpu.wide_attention import (
    nothing_where_nothing_is_seen,
    sees_nothing,
    wide_attention,
)


@register_traced("cpu.masked_attention")
def masked_attention(arguments: dict[str, Any]) -> Thunk:
    """query [batch, tokens, q_heads, head_dim], keys and values [batch, kv_heads, length,
    head_dim], all of any strides -> out like query, contiguous.

    mask [batch or 1, q_heads or 1, tokens, length], bool or added to the scores, or None. A query
    that sees nothing gets zeros with ``safe_softmax``, else NaN. Scratch
    for one token: scores like query and floats in float32, both [batch * q_heads, length]; wide
    float32 like keys, in place of scores, has it computed in float32 throughout.
    """
    query, mask, scale = arguments["query"], optional(arguments, "mask"), float(arguments["scale"])
    keys = arguments["keys"]
    require_fit(arguments)
    narrow = mask is None or (mask.dim() == 4 and mask.shape[1] == 1 and mask.dtype == query.dtype)
    if query.shape[1] == 1 and keys.shape[2] and narrow and not bool(arguments["causal"]):
        if optional(arguments, "wide") is not None:
            return wide_attention(arguments, mask, scale)
        return _by_group(arguments, mask, scale)
    return library_attention(arguments)


def require_fit(arguments: dict[str, Any]) -> None:
    """Raise :class:`PlanError` unless query, keys, values and out of a masked attention go
    together."""
    query, keys, values = (arguments[name] for name in ("query", "keys", "values"))
    require_dtype("query", query)
    require_dtype("keys", keys, query.dtype)
    require_dtype("values", values, query.dtype)
    require_shape("out", arguments["out"], tuple(query.shape))
    batch, tokens, q_heads, head_dim = query.shape
    kv_heads, length = keys.shape[1:3]
    fitting = (batch, kv_heads, length, head_dim)
    if not tuple(keys.shape) == tuple(values.shape) == fitting or q_heads % kv_heads:
        raise PlanError(
            "keys and values do not fit the queries",
            expected=f"[{batch}, a divisor of {q_heads}, length, {head_dim}]",
            found=f"{list(keys.shape)} and {list(values.shape)}",
        )
    mask = optional(arguments, "mask")
    if mask is not None and not _widens(mask.shape, (batch, q_heads, tokens, length)):
        raise PlanError(
            "the mask does not fit the queries and keys",
            expected=f"what broadcasts to {[batch, q_heads, tokens, length]}",
            found=str(list(mask.shape)),
        )


def _widens(shape: torch.Size, wide: tuple[int, ...]) -> bool:
    """Whether a tensor of ``shape`` broadcasts to ``wide``."""
    ends = wide[len(wide) - len(shape) :]
    return len(shape) <= len(wide) and all(
        size in (1, wanted) for size, wanted in zip(shape, ends, strict=True)
    )


def library_attention(arguments: dict[str, Any]) -> Thunk:
    """A masked attention by torch's own kernel, for any number of tokens and any mask."""
    query, keys, values = (arguments[name] for name in ("query", "keys", "values"))
    mask, out, scale = optional(arguments, "mask"), arguments["out"], float(arguments["scale"])
    heads_first, target = query.transpose(1, 2), out.transpose(1, 2)
    attend = partial(
        F.scaled_dot_product_attention,
        heads_first,
        keys,
        values,
        attn_mask=mask,
        is_causal=bool(arguments["causal"]),
        scale=scale,
        enable_gqa=query.shape[2] != keys.shape[1],
    )

    def run() -> None:
        target.copy_(attend())

    if mask is None or keys.shape[2] == 0 or bool(arguments["safe_softmax"]):
        return run
    # To add -0.0 changes nothing, and costs little more than the copy that is made anyway.
    undefined = torch.full((), torch.nan, dtype=out.dtype, device=out.device)
    unchanged = torch.full((), -0.0, dtype=out.dtype, device=out.device)

    def run_unsafe() -> None:
        rows = torch.where(sees_nothing(mask), undefined, unchanged)
        torch.add(attend(), rows, out=target)

    return run_unsafe


def _by_group(arguments: dict[str, Any], mask: torch.Tensor | None, scale: float) -> Thunk:
    """One query per sequence: the query heads of a group are the rows of one product, so that keys
    and values are read once for all of them. Two to eighteen times as fast as the library's
    kernel, which has no path for few queries."""
    query, keys, values = (arguments[name] for name in ("query", "keys", "values"))
    scores, floats, out = arguments["scores"], arguments["floats"], arguments["out"]
    batch, _, q_heads, head_dim = query.shape
    kv_heads, length = keys.shape[1:3]
    groups, rows = batch * kv_heads, q_heads // kv_heads
    require_shape("scores", scores, (batch * q_heads, length))
    require_shape("floats", floats, (batch * q_heads, length))
    weights = scores.view(groups, rows, length)
    wide = floats.view(groups, rows, length)
    by_head = (kv_heads, rows, head_dim)
    whole = all(_merge(tensor, 0, 1) for tensor in (keys, values)) and _merge(query, 0, 2)
    if batch == 1 or whole:
        pairs = [
            (
                query[:, 0].view(groups, rows, head_dim),
                keys.flatten(0, 1),
                values.flatten(0, 1),
                weights,
                out.view(groups, rows, head_dim),
            )
        ]
    else:  # slices of something larger: each sequence by itself
        pairs = [
            (
                query[row, 0].view(by_head),
                keys[row],
                values[row],
                weights[kv_heads * row :][:kv_heads],
                out[row, 0].view(by_head),
            )
            for row in range(batch)
        ]
    steps: list[Thunk] = []
    for row, (q, k, _, score, _) in enumerate(pairs):
        keys_across = k.transpose(1, 2)
        if mask is None:
            steps.append(
                partial(torch.baddbmm, score, q, keys_across, beta=0, alpha=scale, out=score)
            )
            continue
        shown = mask.expand(batch, -1, -1, -1)
        if len(pairs) == 1:  # [batch, 1, 1, length], for each group of its sequence
            shown = shown.expand(batch, kv_heads, rows, length)
            if batch > 1:  # only a copy has one stride over sequences and groups
                steps += [
                    partial(score.view(shown.shape).copy_, shown),
                    partial(torch.baddbmm, score, q, keys_across, alpha=scale, out=score),
                ]
                continue
            shown = shown[0]
        else:
            shown = shown[row].expand(kv_heads, rows, length)
        steps.append(partial(torch.baddbmm, shown, q, keys_across, alpha=scale, out=score))
    steps.append(partial(torch.softmax, weights, -1, torch.float32, out=wide))
    if mask is not None and bool(arguments["safe_softmax"]):
        steps.append(nothing_where_nothing_is_seen(mask, floats.view(batch, q_heads, 1, length)))
    steps.append(partial(weights.copy_, wide))
    steps += [partial(torch.bmm, score, v, out=o) for _, _, v, score, o in pairs]
    return in_order(*steps)


def _merge(tensor: torch.Tensor, first: int, second: int) -> bool:
    """Whether two dimensions, those between them of size 1, are one in memory."""
    return tensor.stride(first) == tensor.shape[second] * tensor.stride(second)


@register_traced("cpu.additive_mask")
def additive_mask(arguments: dict[str, Any]) -> Thunk:
    """mask bool, True: seen, of any strides -> out of its shape: 0 where seen, else -inf."""
    mask, out = arguments["mask"], arguments["out"]
    require_dtype("mask", mask, torch.bool)
    seen = torch.zeros((), dtype=out.dtype, device=out.device)
    hidden = torch.full((), -torch.inf, dtype=out.dtype, device=out.device)

    def run() -> None:
        torch.where(mask, seen, hidden, out=out)

    return run
