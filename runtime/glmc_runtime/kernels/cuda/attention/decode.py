"""Attention of one new token per sequence over the paged cache.

One program reads one KV split of a sequence's keys and values of one kv head, once for all query
heads of the group. The grid is fixed when the call is bound, since it is captured in a graph;
lengths are on the device, and programs after the end of their sequence leave without touching
memory. ``split_reduce`` reduces the splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    power_of_two,
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.attention.online_softmax import LOG2_E, attend, kv_split
from glmc_runtime.kernels.cuda.attention.schema import DECODE
from glmc_runtime.kernels.cuda.attention.split_reduce import finish, reduce_kernel
from glmc_runtime.kernels.cuda.attention.splits import Shape, choose
from glmc_runtime.kernels.cuda.launch import (
    RepeatedLaunch,
    interpreted,
    launch,
    pdl_enabled,
)
from glmc_runtime.kernels.cuda.paged_cache import cache_constants
from glmc_runtime.kernels.cuda.tuned import Configuration

_CONSTANTS = ("BLOCK", "SHORTEST", "FAN", "TOGETHER", "num_warps", "num_stages")


@triton.jit(do_not_specialize=["table_stride", "splits"])
def decode_attention_kernel(
    query,
    key_cache,
    value_cache,
    tables,
    lengths,
    cu_seqlens_q,
    out,
    partials,
    lse,
    new_scores,
    counters,
    table_stride,
    splits,
    scale,
    PACKED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    SHORTEST: tl.constexpr,
    FAN: tl.constexpr,
    TOGETHER: tl.constexpr,
    LAST_REDUCES: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """``lengths`` are the contexts of the sequences, whose queries are rows in their order. PACKED:
    queries begin where ``cu_seqlens_q`` says, ``lengths`` are prefix sums, and sequences with more
    queries than one, or none, are left out."""
    split, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first = sequence
    length = tl.load(lengths + sequence)
    if PACKED:
        first = tl.load(cu_seqlens_q + sequence)
        if tl.load(cu_seqlens_q + sequence + 1) - first != 1:
            return
        length = tl.load(lengths + sequence + 1) - length
    begin, end, active = kv_split(length, split, splits, BLOCK, SHORTEST)
    if split >= active:
        return
    row = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    pair = sequence * KV_HEADS + kv_head
    place = (first * KV_HEADS + kv_head) * GROUP
    heads = tl.load(
        query + (place + row) * HEAD_DIM + columns,
        mask=(row < GROUP) & (columns < HEAD_DIM),
        other=0.0,
    )
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([ROWS], dtype=tl.float32)
    total, top, weight = attend(
        heads,
        key_cache,
        value_cache,
        tables + sequence.to(tl.int64) * table_stride,
        kv_head,
        begin,
        end,
        end,
        scale,
        total,
        top,
        weight,
        BLOCK_SIZE,
        BLOCK_STRIDE,
        HEAD_STRIDE,
        TOKEN_STRIDE,
        HEAD_DIM,
        WIDTH,
        BLOCK,
        WIDEN,
    )
    finish(
        out + place * HEAD_DIM,
        partials,
        lse,
        counters,
        new_scores,
        query,
        pair,
        split,
        splits,
        active,
        total,
        top,
        weight,
        GROUP,
        ROWS,
        HEAD_DIM,
        WIDTH,
        FAN,
        TOGETHER,
        LAST_REDUCES,
        LEVELS,
        False,
    )


def shape_of(arguments: dict[str, Any]) -> Shape:
    """Check the tensors that both kernels of a decode step share; their shape from ``out``."""
    out, key_cache, tables = arguments["out"], arguments["key_cache"], arguments["block_tables"]
    lengths = arguments["context_lengths"]
    sequences, q_heads, head_dim = out.shape
    kv_heads, block_size = key_cache.shape[1:3]
    if q_heads % kv_heads:
        raise PlanError(
            "the query heads do not divide among the kv heads",
            expected=f"a multiple of {kv_heads}",
            found=str(q_heads),
        )
    require_dtype("out", out)
    require_shape("out", out, (sequences, q_heads, head_dim))
    cache_constants(arguments, head_dim, out.dtype)
    require_shape("block_tables", tables, (sequences, tables.shape[-1]))
    require_shape("context_lengths", lengths, (sequences,))
    for name in ("block_tables", "context_lengths"):
        require_dtype(name, arguments[name], torch.int32)
    require_one_device(out, key_cache, arguments["value_cache"], tables, lengths)
    longest = tables.shape[1] * block_size
    return Shape(sequences, q_heads, kv_heads, head_dim, longest, out.dtype)


class SplitWorkspace(NamedTuple):
    """Workspace of ``split_reduce.finish``."""

    partials: torch.Tensor
    lse: torch.Tensor
    new_scores: torch.Tensor
    counters: torch.Tensor


def last_program_reduces(configuration: Configuration) -> bool:
    return bool(configuration.get("REDUCE", "last") == "last")


def split_workspace(
    shape: Shape, configuration: Configuration, device: torch.device
) -> SplitWorkspace:
    pairs, group = shape.sequences * shape.kv_heads, shape.q_heads // shape.kv_heads
    groups = (
        triton.cdiv(configuration["splits"], configuration["FAN"])
        if last_program_reduces(configuration)
        else 0
    )
    rows = pairs * (configuration["splits"] + groups) * group
    memory = workspace.floats(device, rows * (shape.head_dim + 1) + pairs * group)
    partials, lse, new_scores = memory.split((rows * shape.head_dim, rows, pairs * group))
    return SplitWorkspace(
        partials, lse, new_scores, workspace.arrival_counters(device, pairs * (1 + groups))
    )


def with_reduction(
    attend: Thunk,
    shape: Shape,
    configuration: Configuration,
    scratch: SplitWorkspace,
    lengths: torch.Tensor,
    out: torch.Tensor,
    new_values: torch.Tensor | None,
) -> Thunk:
    """``attend``, and where the last program does not reduce, the launch that does; ``new_values``
    [sequences, kv_heads * head_dim or more] of tokens that are not cached."""
    if last_program_reduces(configuration):
        return attend
    most, width = power_of_two(configuration["splits"]), max(16, power_of_two(shape.head_dim))
    reduce = partial(
        launch,
        reduce_kernel,
        (shape.q_heads, shape.sequences),
        scratch.partials,
        scratch.lse,
        scratch.new_scores,
        out if new_values is None else new_values,
        lengths,
        out,
        configuration["splits"],
        0 if new_values is None else new_values.stride(0),
        Q_HEADS=shape.q_heads,
        GROUP=shape.q_heads // shape.kv_heads,
        HEAD_DIM=shape.head_dim,
        WIDTH=width,
        BLOCK=configuration["BLOCK"],
        SHORTEST=configuration["SHORTEST"],
        MOST=most,
        NEW=new_values is not None,
        num_warps=max(1, min(8, most * width // 2048)),
        pdl=pdl_enabled(out.device),
    )

    def both() -> None:
        attend()
        reduce()

    return both


def constants(
    shape: Shape, configuration: Configuration, cache: Mapping[str, int]
) -> dict[str, Any]:
    """What both kernels of a decode step are compiled for. ``cache`` has the constants of its
    places."""
    group = shape.q_heads // shape.kv_heads
    return {
        "KV_HEADS": shape.kv_heads,
        "GROUP": group,
        "ROWS": max(16, power_of_two(group)),
        "HEAD_DIM": shape.head_dim,
        "WIDTH": max(16, power_of_two(shape.head_dim)),
        **cache,
        **{name: configuration[name] for name in _CONSTANTS},
        "LAST_REDUCES": last_program_reduces(configuration),
        "LEVELS": 1 if configuration["splits"] <= configuration["FAN"] else 2,
        "WIDEN": interpreted(),
        "enable_fp_fusion": shape.dtype != torch.float32,
    }


@register("cuda.decode_attention", DECODE)
def decode_attention(arguments: dict[str, Any]) -> Thunk:
    """query and out [sequences, q_heads, head_dim]; key_cache and value_cache [blocks, kv_heads,
    block_size, head_dim] of any strides but the last; block_tables int32 [sequences,
    blocks_per_sequence]; context_lengths int32 [sequences] on the device, at least 1, the new token
    counted."""
    query, out = arguments["query"], arguments["out"]
    shape = shape_of(arguments)
    require_like("query", query, out)
    require_one_device(query, out)
    configuration = choose("decode_attention", arguments, shape, out.device)
    scratch = split_workspace(shape, configuration, out.device)
    lengths = arguments["context_lengths"]
    attend_all = _attention(
        arguments, shape, configuration, scratch, lengths, lengths, packed=False
    )
    return with_reduction(attend_all, shape, configuration, scratch, lengths, out, None)


def single_rows(arguments: dict[str, Any]) -> Thunk:
    """Attention of the sequences of a packed step that have one query; the rows of the others stay
    as they are. Arguments as for ``cuda.prefill_attention``."""
    out, tables, key_cache = arguments["out"], arguments["block_tables"], arguments["key_cache"]
    _, q_heads, head_dim = out.shape
    kv_heads, block_size = key_cache.shape[1:3]
    longest = tables.shape[1] * block_size
    shape = Shape(tables.shape[0], q_heads, kv_heads, head_dim, longest, out.dtype)
    asked = {name: value for name, value in arguments.items() if name != "configuration"}
    # The launch that reduces apart knows no rows that are left out.
    configuration = choose("decode_attention", asked, shape, out.device) | {"REDUCE": "last"}
    scratch = split_workspace(shape, configuration, out.device)
    bounds = arguments["cu_seqlens_k"], arguments["cu_seqlens_q"]
    return _attention(arguments, shape, configuration, scratch, *bounds, packed=True)


def _attention(
    arguments: dict[str, Any],
    shape: Shape,
    configuration: Configuration,
    scratch: SplitWorkspace,
    lengths: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    *,
    packed: bool,
) -> Thunk:
    """The launch of the kernel; ``lengths`` and ``cu_seqlens_q`` are as it says."""
    out, tables = arguments["out"], arguments["block_tables"]
    attend = RepeatedLaunch(
        decode_attention_kernel,
        PACKED=packed,
        **constants(shape, configuration, cache_constants(arguments, shape.head_dim, out.dtype)),
        pdl=pdl_enabled(out.device),
    )
    return partial(
        attend,
        (configuration["splits"], shape.kv_heads, shape.sequences),
        arguments["query"],
        arguments["key_cache"],
        arguments["value_cache"],
        tables,
        lengths,
        cu_seqlens_q,
        out,
        scratch.partials,
        scratch.lse,
        scratch.new_scores,
        scratch.counters,
        tables.shape[1],
        configuration["splits"],
        float(arguments["scale"]) * LOG2_E,
    )
