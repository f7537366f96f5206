"""Attention over a program's own keys and values, under its own mask.

For one token per sequence one program reads a KV split of one kv head's keys and values, once for
all query heads of the group, as in ``decode_attention``; the mask says which tokens count. Keys and
values before the first token of a split that -inf does not hide, or after the last, are not
read. KV splits are cut by the length of the caches. More tokens at once go to torch's own kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register_traced
from glmc_runtime.kernels.checks import (
    in_order,
    optional,
    power_of_two,
    require_one_device,
)
from glmc_runtime.kernels.cpu.masked_attention import (
    additive_mask,
    library_attention,
    require_fit,
)
from glmc_runtime.kernels.cuda.attention.decode import constants, split_workspace
from glmc_runtime.kernels.cuda.attention.online_softmax import LOG2_E, finite, load_row
from glmc_runtime.kernels.cuda.attention.split_reduce import finish
from glmc_runtime.kernels.cuda.attention.splits import Shape, count_splits, default
from glmc_runtime.kernels.cuda.launch import launch, multiprocessors, pdl_enabled
from glmc_runtime.kernels.cuda.linear.tiles import dot
from glmc_runtime.kernels.cuda.side_by_side import side_by_side

_SCAN = 1024  # entries of the mask that are looked at together
_SIZES = ("length", "splits", "size")
# Some masks hide by the smallest number of their dtype, which has no multiple.
_LEAST = -3.0e38

register_traced("cuda.additive_mask")(additive_mask)


@triton.jit
def visible(mask, begin, end, stride, SCAN: tl.constexpr):
    """The first token of [begin, end) that ``mask`` lets be seen, and the one after the last."""
    first, last = end, begin
    for start in range(begin, end, SCAN):
        token = start + tl.arange(0, SCAN)
        shown = tl.load(mask + token.to(tl.int64) * stride, mask=token < end, other=float("-inf"))
        seen = shown != float("-inf")
        first = tl.minimum(first, tl.min(tl.where(seen, token, end), axis=0))
        last = tl.maximum(last, tl.max(tl.where(seen, token + 1, begin), axis=0))
    return first, last


@triton.jit
def in_powers_of_two(added, log2_e, LEAST: tl.constexpr):
    """What ``added`` is of scores that are logarithms to base 2; finite where it was."""
    added = added.to(tl.float32)
    return tl.where(added == float("-inf"), added, tl.maximum(added * log2_e, LEAST))


@triton.jit(do_not_specialize=_SIZES)
def masked_attention_kernel(
    query,
    keys,
    values,
    mask,
    out,
    partials,
    lse,
    counters,
    length,
    splits,
    size,
    scale,
    log2_e,
    query_sequence,
    query_head,
    key_sequence,
    key_head,
    key_token,
    value_sequence,
    value_head,
    value_token,
    mask_sequence,
    mask_head,
    mask_token,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SCAN: tl.constexpr,
    FAN: tl.constexpr,
    TOGETHER: tl.constexpr,
    LEVELS: tl.constexpr,
    MASKED: tl.constexpr,
    BY_HEAD: tl.constexpr,
    LEAST: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
    SAFE: tl.constexpr,
):
    split, kv_head = tl.program_id(0), tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    begin = split * size
    end = tl.minimum(begin + size, length)
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    head = tl.minimum(kv_head * GROUP + row, KV_HEADS * GROUP - 1)
    heads = tl.load(
        query + sequence * query_sequence + head.to(tl.int64) * query_head + columns,
        mask=(row < GROUP) & (columns < HEAD_DIM),
        other=0.0,
    )
    mask += sequence * mask_sequence
    first, last = begin, end
    if MASKED and not BY_HEAD:
        first, last = visible(mask, begin, end, mask_token, SCAN)
        first = begin + (first - begin) // BLOCK * BLOCK
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([ROWS], dtype=tl.float32)
    keys += sequence * key_sequence + kv_head.to(tl.int64) * key_head
    values += sequence * value_sequence + kv_head.to(tl.int64) * value_head
    for start in range(first, last, BLOCK):
        position = start + tl.arange(0, BLOCK)
        token = tl.minimum(position, last - 1).to(tl.int64)
        key = load_row(keys + token[:, None] * key_token + columns, columns, HEAD_DIM, WIDTH)
        value = load_row(values + token[:, None] * value_token + columns, columns, HEAD_DIM, WIDTH)
        scores = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        scores = dot(heads, tl.trans(key), scores, WIDEN) * scale
        if BY_HEAD:
            place = head.to(tl.int64) * mask_head + token[None, :] * mask_token
            scores += in_powers_of_two(tl.load(mask + place), log2_e, LEAST)
        elif MASKED:
            added = tl.load(mask + token * mask_token)[None, :]
            scores += in_powers_of_two(added, log2_e, LEAST)
        scores = tl.where((position < last)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - finite(new_top))
        weights = tl.exp2(scores - finite(new_top)[:, None])
        weight = weight * shrink + tl.sum(weights, axis=1)
        total = dot(weights.to(value.dtype), value, total * shrink[:, None], WIDEN)
        top = new_top
    pair = tl.program_id(2) * KV_HEADS + kv_head
    finish(
        out + pair.to(tl.int64) * GROUP * HEAD_DIM,
        partials,
        lse,
        counters,
        lse,
        query,
        pair,
        split,
        splits,
        splits,
        total,
        top,
        weight,
        GROUP,
        ROWS,
        HEAD_DIM,
        WIDTH,
        FAN,
        TOGETHER,
        True,
        LEVELS,
        False,
        SAFE,
    )


@register_traced("cuda.masked_attention")
def masked_attention(arguments: dict[str, Any]) -> Thunk:
    """query [batch, tokens, q_heads, head_dim], keys and values [batch, kv_heads, length,
    head_dim], all of any strides -> out like query, contiguous.

    mask [batch or 1, q_heads or 1, tokens, length], added to the scores, or None. A query that sees
    nothing gets zeros with ``safe_softmax``, else NaN.
    """
    query, keys, values = (arguments[name] for name in ("query", "keys", "values"))
    mask, out = optional(arguments, "mask"), arguments["out"]
    require_fit(arguments)
    if query.shape[1] != 1 or bool(arguments["causal"]) or keys.shape[2] == 0 or out.numel() == 0:
        return library_attention(arguments)
    if mask is not None and not mask.dtype.is_floating_point:
        raise PlanError(
            "a mask says what is added to the scores",
            expected="a mask of a float dtype",
            found=str(mask.dtype).removeprefix("torch."),
        )
    require_one_device(query, keys, values, mask, out)
    batch, _, q_heads, head_dim = query.shape
    kv_heads, length = keys.shape[1:3]
    shape = Shape(batch, q_heads, kv_heads, head_dim, length, query.dtype)
    configuration = default(shape)
    configuration["SHORTEST"] = configuration["BLOCK"]
    configuration |= (arguments.get("configuration") or {}) | {"REDUCE": "last"}
    processors = multiprocessors(out.device)
    splits = configuration.get("splits") or count_splits(
        shape, processors, configuration["WAVES"], configuration["SHORTEST"]
    )
    size = -(-length // (splits * configuration["BLOCK"])) * configuration["BLOCK"]
    configuration["splits"] = splits = -(-length // size)
    scratch = split_workspace(shape, configuration, out.device)
    steps: list[Thunk] = []
    query, keys, values = (side_by_side(tensor, steps) for tensor in (query, keys, values))
    shown = query if mask is None else mask.expand(batch, q_heads, 1, length)
    meta = constants(shape, configuration, {})
    for name in ("SHORTEST", "LAST_REDUCES"):
        del meta[name]
    attend = partial(
        launch,
        masked_attention_kernel,
        (splits, kv_heads, batch),
        query,
        keys,
        values,
        shown,
        out,
        scratch.partials,
        scratch.lse,
        scratch.counters,
        length,
        splits,
        size,
        float(arguments["scale"]) * LOG2_E,
        LOG2_E,
        query.stride(0),
        query.stride(2),
        *keys.stride()[:3],
        *values.stride()[:3],
        shown.stride(0),
        shown.stride(1),
        shown.stride(3),
        **meta,
        SCAN=min(_SCAN, power_of_two(size)),
        MASKED=mask is not None,
        BY_HEAD=mask is not None and shown.stride(1) != 0,
        LEAST=_LEAST,
        SAFE=bool(arguments["safe_softmax"]),
        pdl=pdl_enabled(out.device),
    )
    return in_order(*steps, attend) if steps else attend
