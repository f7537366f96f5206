"""Attention of one query per sequence in float32, for processors without products of the dtype.

There (with AVX2, say) ATen multiplies bfloat16 element by element: both products in float32 are
eight times as fast, with the copies of keys and values included.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape


def wide_attention(arguments: dict[str, Any], mask: torch.Tensor | None, scale: float) -> Thunk:
    """As ``cpu.masked_attention`` for one token; nothing but the result is rounded.

    Scratch: floats [batch * q_heads, length] and wide [batch, kv_heads, length, head_dim], both
    float32. Queries and results in float32 are in memory of the call's own.
    """
    query, keys, values = (arguments[name] for name in ("query", "keys", "values"))
    floats, wide, out = arguments["floats"], arguments["wide"], arguments["out"]
    batch, _, q_heads, head_dim = query.shape
    kv_heads, length = keys.shape[1:3]
    groups, rows = batch * kv_heads, q_heads // kv_heads
    for name, tensor in (("floats", floats), ("wide", wide)):
        require_dtype(name, tensor, torch.float32)
    require_shape("floats", floats, (batch * q_heads, length))
    require_shape("wide", wide, tuple(keys.shape))
    with torch.inference_mode(False):  # the next call may not be in inference mode
        small = torch.empty(2, batch, q_heads, head_dim, dtype=torch.float32, device=query.device)
    queries, results = small
    context = wide.view(groups, length, head_dim)
    weights = floats.view(groups, rows, length)
    by_group = (groups, rows, head_dim)
    by_sequence = floats.view(batch, q_heads, 1, length)
    steps: list[Thunk] = [
        partial(queries.copy_, query[:, 0]),
        partial(queries.mul_, scale),
        partial(wide.copy_, keys),
        partial(torch.bmm, queries.view(by_group), context.transpose(1, 2), out=weights),
    ]
    if mask is not None:
        steps.append(partial(by_sequence.add_, mask))
    steps.append(partial(torch.ops.aten._softmax.out, weights, -1, False, out=weights))
    if mask is not None and bool(arguments["safe_softmax"]):
        steps.append(nothing_where_nothing_is_seen(mask, by_sequence))
    return in_order(
        *steps,
        partial(wide.copy_, values),
        partial(torch.bmm, weights, context, out=results.view(by_group)),
        partial(out[:, 0].copy_, results),
    )


def nothing_where_nothing_is_seen(mask: torch.Tensor, weights: torch.Tensor) -> Thunk:
    """A query that sees nothing gets nothing, as from torch; every other NaN stays one."""

    def run() -> None:
        weights.masked_fill_(sees_nothing(mask), 0.0)

    return run


def sees_nothing(mask: torch.Tensor) -> torch.Tensor:
    """Whether a mask, bool or added, hides every key of a query; like it, with one key."""
    most = mask.amax(-1, keepdim=True)
    return most.logical_not() if mask.dtype == torch.bool else most == -torch.inf
