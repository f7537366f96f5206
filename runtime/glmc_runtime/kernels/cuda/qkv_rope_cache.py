"""Split the merged projection, norm q and k, rotate them, write keys and values to the cache.

One launch for any number of tokens. A program takes HEADS heads of one token, whatever they are:
the heads of q, k and v are one after the other, and masks say where each result goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    optional,
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import tuned
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.paged_cache import cache_constants, cache_places
from glmc_runtime.kernels.cuda.rotary import (
    load_partners,
    load_waves,
    norm_rotate,
    partner_columns,
)
from glmc_runtime.kernels.cuda.tuned import Configuration
from glmc_runtime.kernels.schema import flag, number, schema, tensor, written


@triton.jit
def qkv_rope_cache_kernel(
    qkv,
    q_norm,
    k_norm,
    cos_sin,
    positions,
    slot_mapping,
    query,
    key_cache,
    value_cache,
    eps,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    HEADS: tl.constexpr,
    NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    is_query = head < Q_HEADS
    is_value = head >= Q_HEADS + KV_HEADS
    in_head = columns < HEAD_DIM
    weight, other_weight = 1.0, 1.0
    if NORM:
        others = partner_columns(columns, ROTARY, INTERLEAVED)
        weight = tl.where(
            is_query,
            tl.load(q_norm + columns, mask=in_head, other=0.0),
            tl.load(k_norm + columns, mask=in_head, other=0.0),
        )
        other_weight = tl.where(
            is_query,
            tl.load(q_norm + others, mask=in_head, other=0.0),
            tl.load(k_norm + others, mask=in_head, other=0.0),
        )
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    position, slot = tl.load(positions + token), tl.load(slot_mapping + token)
    cos, sin = load_waves(cos_sin + position * ROTARY, columns, ROTARY, INTERLEAVED)
    inside = (head < Q_HEADS + 2 * KV_HEADS) & in_head
    source = qkv + (token * (Q_HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
    heads = tl.load(source + columns, mask=inside, other=0.0)
    partners = load_partners(source, heads, columns, inside, HEAD_DIM, ROTARY, INTERLEAVED)
    rotated = norm_rotate(
        heads, partners, weight, other_weight, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
    )
    tl.store(
        query + (token * Q_HEADS + head) * HEAD_DIM + columns, rotated, mask=is_query & in_head
    )
    kv_head = (head - Q_HEADS) % KV_HEADS
    row = cache_places(
        slot // BLOCK_SIZE, slot, kv_head, BLOCK_SIZE, BLOCK_STRIDE, HEAD_STRIDE, TOKEN_STRIDE
    )
    place = row + columns
    tl.store(key_cache + place, rotated, mask=(is_query == 0) & (is_value == 0) & inside)
    tl.store(value_cache + place, heads, mask=is_value & inside)


def default(heads: int, tokens: int) -> Configuration:
    """Few tokens: small programs, so that all heads of a token are in flight at once."""
    return {"HEADS": min(4 if tokens <= 64 else 16, power_of_two(heads)), "num_warps": 4}


def candidates(heads: int, tokens: int) -> Iterator[Configuration]:
    """What to try, the default first. ``heads`` counts those of q, k and v."""
    first = default(heads, tokens)
    yield first
    for count in (1, 2, 4, 8, 16, 32):
        for warps in (1, 2, 4, 8):
            configuration = {"HEADS": count, "num_warps": warps}
            if configuration != first and count <= power_of_two(heads):
                yield configuration


_CACHE = "blocks kv_heads block_size head_dim"
ROPE_ARGUMENTS = (
    tensor("qkv", "tokens (q_heads+2*kv_heads)*head_dim"),
    written("key_cache", _CACHE, like="qkv", reads=True, strided=True),
    written("value_cache", _CACHE, like="qkv", reads=True, strided=True),
    tensor("q_norm", "head_dim", like="qkv", required=False),
    tensor("k_norm", "head_dim", like="qkv", required=False),
    tensor("cos_sin", "places rotary", like="qkv"),
    tensor("positions", "tokens", "int64", holds="positions", below="places"),
    tensor("slot_mapping", "tokens", "int64", holds="slot_mapping"),
    flag("interleaved"),
    number("norm_eps", 0, 1),
)
ROPE_RELATIONS = ("rotary <= head_dim", "rotary % 2 == 0")


@register(
    "cuda.qkv_rope_cache",
    schema(
        *ROPE_ARGUMENTS,
        written("query", "tokens q_heads head_dim", like="qkv"),
        relations=ROPE_RELATIONS,
        together=(("q_norm", "k_norm"),),
    ),
)
def qkv_rope_cache(arguments: dict[str, Any]) -> Thunk:
    """qkv [tokens, (q_heads + 2 * kv_heads) * head_dim] -> query [tokens, q_heads, head_dim], and
    keys and values at slot_mapping of the caches [blocks, kv_heads, block_size, head_dim], which
    may have any strides but the last.

    q_norm and k_norm [head_dim] or both None; cos_sin [positions, rotary_dim], cos first; positions
    and slot_mapping int64 [tokens].
    """
    qkv, query = arguments["qkv"], arguments["query"]
    tokens, q_heads, head_dim = query.shape
    require_shape("query", query, (tokens, q_heads, head_dim))
    require_dtype("query", query, qkv.dtype)
    shapes = rope_arguments(arguments, tokens, q_heads, head_dim)
    require_one_device(qkv, query, arguments["key_cache"])
    heads = q_heads + 2 * shapes["KV_HEADS"]
    key = f"{q_heads}x{shapes['KV_HEADS']}x{head_dim}"
    configuration = (
        arguments.get("configuration")
        or tuned.configuration("qkv_rope_cache", qkv.dtype, key, tokens)
        or default(heads, tokens)
    )
    q_norm, k_norm = optional(arguments, "q_norm"), optional(arguments, "k_norm")
    return partial(
        launch,
        qkv_rope_cache_kernel,
        (tokens, triton.cdiv(heads, configuration["HEADS"])),
        qkv,
        qkv if q_norm is None else q_norm,
        qkv if k_norm is None else k_norm,
        arguments["cos_sin"],
        arguments["positions"].view(-1),
        arguments["slot_mapping"].view(-1),
        query,
        arguments["key_cache"],
        arguments["value_cache"],
        float(arguments["norm_eps"]) if q_norm is not None else 0.0,
        **shapes,
        HEADS=configuration["HEADS"],
        num_warps=configuration["num_warps"],
        enable_fp_fusion=False,  # eager code rounds each product
        pdl=pdl_enabled(qkv.device),
    )


def rope_arguments(
    arguments: dict[str, Any], tokens: int, q_heads: int, head_dim: int
) -> dict[str, Any]:
    """Check what the kernels that rotate the heads of ``qkv`` share; the constants they have in
    common."""
    qkv, cos_sin, key_cache = arguments["qkv"], arguments["cos_sin"], arguments["key_cache"]
    q_norm, k_norm = optional(arguments, "q_norm"), optional(arguments, "k_norm")
    kv_heads = key_cache.shape[1]
    rotary = cos_sin.shape[1]
    if (q_norm is None) != (k_norm is None):
        raise PlanError("q_norm and k_norm must be given together")
    if rotary % 2 or not 0 < rotary <= head_dim:
        raise PlanError(
            "the table of rope does not fit the heads",
            expected=f"an even number of columns up to {head_dim}",
            found=str(rotary),
        )
    require_dtype("qkv", qkv)
    require_shape("qkv", qkv, (tokens, (q_heads + 2 * kv_heads) * head_dim))
    require_shape("cos_sin", cos_sin, tuple(cos_sin.shape))
    require_dtype("cos_sin", cos_sin, qkv.dtype)
    places = cache_constants(arguments, head_dim, qkv.dtype)
    for name in ("positions", "slot_mapping"):
        require_dtype(name, arguments[name], torch.int64)
        require_shape(name, arguments[name].view(-1), (tokens,))
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            require_shape(name, weight, (head_dim,))
            require_dtype(name, weight, qkv.dtype)
    require_one_device(
        qkv, q_norm, k_norm, cos_sin, key_cache, arguments["value_cache"],
        arguments["positions"], arguments["slot_mapping"],
    )  # fmt: skip
    return {
        "Q_HEADS": q_heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "WIDTH": max(16, power_of_two(head_dim)),
        "ROTARY": rotary,
        **places,
        "NORM": q_norm is not None,
        "INTERLEAVED": bool(arguments["interleaved"]),
    }
