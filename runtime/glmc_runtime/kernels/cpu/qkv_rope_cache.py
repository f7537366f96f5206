"""Split the merged projection, norm q and k, rotate them, write keys and values to the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    in_order,
    optional,
    require_caches,
    require_dtype,
    require_shape,
)
from glmc_runtime.kernels.cpu.cache_memory import write_slots
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.cpu.norms import normalize
from glmc_runtime.kernels.schema import flag, number, schema, scratch, tensor, written
from glmc_runtime.kernels.shared_schemas import CACHE


def _pairs(heads: torch.Tensor, half: int, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if interleaved:
        return heads[..., 0 : 2 * half : 2], heads[..., 1 : 2 * half : 2]
    return heads[..., :half], heads[..., half : 2 * half]


def rotate(
    source: torch.Tensor,
    turned: torch.Tensor,
    table: torch.Tensor,
    product: torch.Tensor,
    interleaved: bool,
) -> list[Thunk]:
    """source and turned [..., tokens, heads, head_dim], table [..., tokens, rotary_dim] (cos, then
    sin), product [..., tokens, heads, rotary_dim / 2]. Each product is rounded as in eager code."""
    half = table.shape[-1] // 2
    cos, sin = table[..., None, :half], table[..., None, half:]
    first, second = _pairs(source, half, interleaved)
    new_first, new_second = _pairs(turned, half, interleaved)
    steps: list[Thunk] = [
        partial(torch.mul, first, cos, out=new_first),
        partial(torch.mul, second, sin, out=product),
        partial(new_first.sub_, product),
        partial(torch.mul, second, cos, out=new_second),
        partial(torch.mul, first, sin, out=product),
        partial(new_second.add_, product),
    ]
    if 2 * half < source.shape[-1]:
        steps.append(partial(turned[..., 2 * half :].copy_, source[..., 2 * half :]))
    return steps


Norms = Callable[[torch.Tensor, torch.Tensor, int], list[Thunk]]
"""Norm q and k of the first argument, [tokens, q + k heads, head_dim], into the second; the third
is the number of query heads."""


def _norms(arguments: dict[str, Any]) -> Norms:
    """Norms whose scratch a plan gives."""

    def steps(heads: torch.Tensor, normed: torch.Tensor, q_heads: int) -> list[Thunk]:
        hidden, square, variance = (arguments[name] for name in ("hidden", "square", "variance"))
        thunks = []
        for name, part in (("q_norm", slice(0, q_heads)), ("k_norm", slice(q_heads, None))):
            views = [tensor[:, part] for tensor in (heads, normed, hidden, square, variance)]
            source, target, *floats = views
            eps = float(arguments["norm_eps"])
            thunks.append(normalize(source, arguments[name], eps, target, *floats))
        return thunks

    return steps


SPLIT = (
    tensor("qkv", "tokens (q_heads+2*kv_heads)*head_dim"),
    written("query", "tokens q_heads head_dim", like="qkv"),
    written("key_cache", CACHE, like="qkv", reads=True, strided=True),
    written("value_cache", CACHE, like="qkv", reads=True, strided=True),
    tensor("q_norm", "head_dim", like="qkv", required=False),
    tensor("k_norm", "head_dim", like="qkv", required=False),
    tensor("cos_sin", "places 2*half", like="qkv"),
    tensor("positions", "tokens", "int64", holds="positions", below="places"),
    tensor("slot_mapping", "tokens", "int64", holds="slot_mapping"),
    flag("interleaved"),
    number("norm_eps", 0, 1),
    written("table", "tokens 2*half", like="qkv"),
    written("product", "tokens q_heads+kv_heads half", like="qkv"),
    written("turned", "tokens q_heads+kv_heads head_dim", like="qkv"),
    scratch("normed", "tokens q_heads+kv_heads head_dim", like="qkv"),
)
"""Arguments, scratch of the norms aside."""


@register(
    "cpu.qkv_rope_cache",
    schema(
        *SPLIT,
        scratch("hidden", "tokens q_heads+kv_heads head_dim", "float32"),
        scratch("square", "tokens q_heads+kv_heads head_dim", "float32"),
        scratch("variance", "tokens q_heads+kv_heads 1", "float32"),
        relations=("2*half <= head_dim",),
        together=(("q_norm", "k_norm", "normed", "hidden", "square", "variance"),),
    ),
)
def qkv_rope_cache(arguments: dict[str, Any]) -> Thunk:
    """qkv [tokens, (q_heads + 2 * kv_heads) * head_dim] -> query [tokens, q_heads, head_dim], and
    keys and values at slot_mapping of the caches [blocks, block_size, kv_heads, head_dim], which
    may have any strides but the last.

    q_norm and k_norm [head_dim] or both None; cos_sin [positions, rotary_dim]; positions and
    slot_mapping int64 [tokens]. With R = q_heads + kv_heads, scratch: turned [tokens, R, head_dim],
    product [tokens, R, rotary_dim / 2], table [tokens, rotary_dim]; with norms also normed like
    turned, and in float32 hidden and square like turned and variance [tokens, R, 1].
    """
    by_torch = split_and_rotate(arguments, _norms(arguments))
    return _compiled(arguments) or by_torch


def _compiled(arguments: dict[str, Any]) -> Thunk | None:
    """The same in one call of ours, or None where torch's kernels serve; operands were checked."""
    qkv, query, cos_sin = arguments["qkv"], arguments["query"], arguments["cos_sin"]
    keys, values = arguments["key_cache"], arguments["value_cache"]
    norms = [optional(arguments, name) for name in ("q_norm", "k_norm")]
    positions, slots = arguments["positions"], arguments["slot_mapping"]
    plain = (qkv, query, cos_sin, positions, slots)
    fits = serves(qkv, query, cos_sin, keys, values, *norms)
    if not fits or not all(tensor.is_contiguous() for tensor in plain):
        return None
    (tokens, q_heads, head_dim), (blocks, block_size, kv_heads) = query.shape, keys.shape[:3]
    places, rotary = cos_sin.shape
    sizes = (tokens, q_heads, kv_heads, head_dim, rotary // 2, places, blocks * block_size)
    interleaved, eps = int(bool(arguments["interleaved"])), float(arguments["norm_eps"])
    return NativeCall(
        "rows_heads",
        (qkv, *norms, cos_sin, query, keys, values, positions, slots),
        (*sizes, block_size, *keys.stride()[:3], interleaved),
        (eps,),
    )


def split_and_rotate(arguments: dict[str, Any], norms: Norms) -> Thunk:
    """``cpu.qkv_rope_cache`` with norms of one's own, into ``normed``."""
    qkv, query, cos_sin = arguments["qkv"], arguments["query"], arguments["cos_sin"]
    key_cache, value_cache = arguments["key_cache"], arguments["value_cache"]
    positions, slots = arguments["positions"].view(-1), arguments["slot_mapping"].view(-1)
    tokens, q_heads, head_dim = query.shape
    kv_heads = key_cache.shape[2]
    rotated = q_heads + kv_heads
    table, product, turned = (arguments[name] for name in ("table", "product", "turned"))
    require_dtype("qkv", qkv)
    for name, index in (("positions", positions), ("slot_mapping", slots)):
        require_dtype(name, index, torch.int64)
        require_shape(name, index, (tokens,))
    require_shape("qkv", qkv, (tokens, (rotated + kv_heads) * head_dim))
    require_caches(arguments)
    require_shape("turned", turned, (tokens, rotated, head_dim))
    require_shape("product", product, (tokens, rotated, cos_sin.shape[1] // 2))
    rotary = cos_sin.shape[1]
    if key_cache.shape[3] != head_dim or rotary % 2 or rotary > head_dim:
        raise PlanError(
            "heads, caches and table do not fit together",
            expected=f"caches of heads of {head_dim}, an even table of at most as much",
            found=f"heads of {key_cache.shape[3]}, a table of {rotary}",
        )
    if (optional(arguments, "q_norm") is None) != (optional(arguments, "k_norm") is None):
        raise PlanError("q_norm and k_norm must be given together")

    heads = qkv.view(tokens, rotated + kv_heads, head_dim)
    source, values = heads[:, :rotated], heads[:, rotated:]
    steps: list[Thunk] = [partial(torch.index_select, cos_sin, 0, positions, out=table)]
    if optional(arguments, "q_norm") is not None:
        for name in ("q_norm", "k_norm"):
            require_shape(name, arguments[name], (head_dim,))
        normed = arguments["normed"]
        steps += norms(source, normed, q_heads)
        source = normed
    steps += rotate(source, turned, table, product, bool(arguments["interleaved"]))
    steps += [
        partial(query.copy_, turned[:, :q_heads]),
        write_slots(key_cache, slots, turned[:, q_heads:]),
        write_slots(value_cache, slots, values),
    ]
    return in_order(*steps)
