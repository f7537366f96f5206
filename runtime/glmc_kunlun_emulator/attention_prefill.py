"""Emulated prefill attention: `prefill_attention`, `attention`, `attention_merge_stage`.

Record, sections 2.6 and 2.7. The kernels divide by sqrt(D) themselves and then multiply by `alpha`,
so alpha = wanted_scale * sqrt(D). `attention` writes its lse as [Hq, T], `attention_merge_stage`
wants [T, Hq]. A lod is an int32 prefix sum of length B+1; the host copy is the one read.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .attention_core import attend, gather_pages, require_heads, used_blocks, visible_keys
from .attention_decode import guard_lengths
from .contract import (
    FLOATS,
    Arguments,
    refuse_unmodelled,
    require,
    require_dtype,
    require_guard,
    require_shape,
    vendor_op,
)
from .errors import UnmodelledError, VendorCheckError
from .kv_cache import require_cache


def _guard_prefill(arguments: Arguments) -> None:
    guard_lengths(arguments)
    if arguments["is_prefix_cache"] and not arguments["is_causal"]:
        raise UnmodelledError(
            "prefill_attention(is_causal=)",
            expected="True with paged keys",
            found="False",
            remedy="public callers disagree on what the flag does with is_prefix_cache=True",
        )


def _bounds(place: str, name: str, lod: torch.Tensor | None, total: int) -> list[tuple[int, int]]:
    if lod is None:
        return [(0, total)]
    require_dtype(place, name, lod, torch.int32)
    ends = lod.tolist()
    rising = all(start <= stop for start, stop in pairwise(ends))
    require(
        len(ends) >= 2 and ends[0] == 0 and rising and ends[-1] <= total,
        f"{place}({name}=)",
        f"a rising prefix sum from 0 to at most {total}",
        ends,
        "rebase a slice of the batch's lod by its first element",
    )
    return list(pairwise(ends))


def _paged_keys(
    place: str,
    dim: int,
    k: torch.Tensor,
    v: torch.Tensor,
    block_table: torch.Tensor | None,
    key_lod: torch.Tensor | None,
) -> tuple[list[tuple[int, int]], torch.Tensor]:
    for name, cache in (("k", k), ("v", v)):
        require_cache(place, name, cache)
        require_shape(place, name, cache, (*k.shape[:3], dim))
    if block_table is None or key_lod is None:
        raise VendorCheckError(
            f"{place}(is_prefix_cache=True)", expected="block_table and kv lods", found="None"
        )
    keys = _bounds(place, "context_kvlen_lod_cpu", key_lod, 2**31)
    return keys, used_blocks(place, block_table, [stop - start for start, stop in keys], k)


def _packed_keys(
    place: str, dim: int, k: torch.Tensor, v: torch.Tensor, lod: torch.Tensor | None
) -> list[tuple[int, int]]:
    require(k.dim() == 3, f"{place}(k=)", "[Tk, Hkv, D] when not paged", tuple(k.shape))
    require_shape(place, "k", k, (k.shape[0], k.shape[1], dim))
    require_shape(place, "v", v, tuple(k.shape))
    return _bounds(place, "context_kvlen_lod_cpu", lod, k.shape[0])


def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    is_causal: bool,
    is_prefix_cache: bool,
    alpha: float,
    block_table: torch.Tensor | None,
    query_lod: torch.Tensor | None,
    key_lod: torch.Tensor | None,
    softmax_lse: torch.Tensor | None,
    window: tuple[int, int],
    sink: torch.Tensor | None,
) -> None:
    place = "prefill_attention"
    require_dtype(place, "q", q, *FLOATS)
    require(q.dim() == 3, f"{place}(q=)", "[Tq, Hq, D]", tuple(q.shape))
    tokens, heads, dim = q.shape
    require_dtype(place, "k", k, q.dtype)
    require_dtype(place, "v", v, q.dtype)
    require_dtype(place, "out", out, q.dtype)
    require(out.numel() == q.numel(), f"{place}(out=)", f"{tuple(q.shape)}", tuple(out.shape))
    require_heads(place, "sink", sink, heads)
    queries = _bounds(place, "context_qlen_lod_cpu", query_lod, tokens)
    if is_prefix_cache:
        keys, blocks = _paged_keys(place, dim, k, v, block_table, key_lod)
    else:
        given = key_lod if key_lod is not None else query_lod
        keys, blocks = _packed_keys(place, dim, k, v, given), None
    kv_heads = k.shape[1]
    require(heads % kv_heads == 0, f"{place}(q=)", f"a multiple of {kv_heads} heads", heads)
    require(len(queries) == len(keys), place, f"{len(queries)} key ranges", len(keys))
    if softmax_lse is not None:
        require_dtype(place, "softmax_lse", softmax_lse, torch.float32)
        require_shape(place, "softmax_lse", softmax_lse, (heads, tokens))
    target = out.view(tokens, heads, dim)
    for row, ((q_start, q_stop), (k_start, k_stop)) in enumerate(zip(queries, keys, strict=True)):
        length = k_stop - k_start
        if q_start == q_stop:
            continue
        require(
            length >= q_stop - q_start or not is_causal,
            f"{place}(context_kvlen_lod_cpu=)",
            f"at least the {q_stop - q_start} new tokens of request {row}",
            length,
            "kv lengths include the prefix and the new tokens",
        )
        if blocks is None:
            key, value = k[k_start:k_stop], v[k_start:k_stop]
        else:
            pages = blocks[row : row + 1, : -(-length // k.shape[2])]
            key, value = gather_pages(k, pages)[0, :length], gather_pages(v, pages)[0, :length]
        positions = torch.arange(length, device=q.device)
        q_positions = positions[length - (q_stop - q_start) :] if is_causal else None
        if q_positions is None:
            q_positions = torch.arange(q_stop - q_start, device=q.device)
        mask = visible_keys(q_positions, positions, is_causal, *window)
        result, lse = attend(
            q[None, q_start:q_stop],
            key[None],
            value[None],
            alpha * dim**-0.5,
            None if mask is None else mask[None],
            sink,
        )
        target[q_start:q_stop] = result[0]
        if softmax_lse is not None:
            softmax_lse[:, q_start:q_stop] = lse[0]


@vendor_op(
    "prefill_attention",
    profiles=("P-A", "P-C"),
    outputs=("out", "softmax_lse"),
    guard=_guard_prefill,
)
def prefill_attention_a(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    is_causal: bool,
    is_prefix_cache: bool = False,
    alpha: float = 1.0,
    block_table: torch.Tensor | None = None,
    context_qlen_lod_cpu: torch.Tensor | None = None,
    context_qlen_lod_xpu: torch.Tensor | None = None,
    context_kvlen_lod_cpu: torch.Tensor | None = None,
    context_kvlen_lod_xpu: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    softmax_lse: torch.Tensor | None = None,
    swa_left: int = -1,
    swa_right: int = -1,
    sink: torch.Tensor | None = None,
) -> None:
    """Variable-length prefill. q, out [Tq, Hq, D]; k, v packed [Tk, Hkv, D] or, with
    is_prefix_cache, caches [num_blocks, Hkv, block_size, D] with block_table and kv lods that
    count the prefix too. Queries are the last positions of their request. P-C is assumed to keep
    P-A's keywords. swa_left = W lets a query see W keys before its own (assumption).
    """
    refuse_unmodelled("prefill_attention", alibi_slopes=(alibi_slopes, None))
    _prefill(
        q, k, v, out, is_causal, is_prefix_cache, alpha, block_table, context_qlen_lod_cpu,
        context_kvlen_lod_cpu, softmax_lse, (swa_left, swa_right), sink,
    )  # fmt: skip


@vendor_op(
    "prefill_attention", profiles=("P-B",), outputs=("out", "softmax_lse"), guard=_guard_prefill
)
def prefill_attention_b(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    is_causal: bool,
    is_prefix_cache: bool = False,
    block_table: torch.Tensor | None = None,
    context_qlen_lod_cpu: torch.Tensor | None = None,
    context_qlen_lod_xpu: torch.Tensor | None = None,
    context_kvlen_lod_cpu: torch.Tensor | None = None,
    context_kvlen_lod_xpu: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    softmax_lse: torch.Tensor | None = None,
    swa_left: int = -1,
    swa_right: int = -1,
    sink: torch.Tensor | None = None,
) -> None:
    """The torch 2.9 wheel's form: no alpha, so the scale is 1/sqrt(D)."""
    refuse_unmodelled("prefill_attention", alibi_slopes=(alibi_slopes, None))
    _prefill(
        q, k, v, out, is_causal, is_prefix_cache, 1.0, block_table, context_qlen_lod_cpu,
        context_kvlen_lod_cpu, softmax_lse, (swa_left, swa_right), sink,
    )  # fmt: skip


@vendor_op("attention", outputs=("out", "softmax_lse"), guard=guard_lengths)
def attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out: torch.Tensor,
    is_causal: bool,
    is_prefill: bool = True,
    prefill_len: int = 0,
    k_perchannel_scale: torch.Tensor | None = None,
    v_perchannel_scale: torch.Tensor | None = None,
    smooth: torch.Tensor | None = None,
    context_seq_lod_cpu: torch.Tensor | None = None,
    context_seq_lod_xpu: torch.Tensor | None = None,
    slot_mapping_cpu: torch.Tensor | None = None,
    slot_mapping_xpu: torch.Tensor | None = None,
    context_kvlen_lod_cpu: torch.Tensor | None = None,
    context_kvlen_lod_xpu: torch.Tensor | None = None,
    v_trans: bool = False,
    v_trans_threshold: int = 0,
    alpha: float = 1.0,
    softmax_lse: torch.Tensor | None = None,
    unpadded_lse: bool = False,
) -> None:
    """Variable-length attention without grouped heads. q [T, Hq, D], k_cache, v_cache [Tk, Hq, D]
    packed tokens (the names are the vendor's), out [T, Hq, D], softmax_lse fp32 [Hq, T], natural
    logarithm. Without kv lods and with Tk != T every request sees all keys: requests bleed.
    """
    place = "attention"
    refuse_unmodelled(
        place,
        is_prefill=(is_prefill, True),
        prefill_len=(prefill_len, 0),
        k_perchannel_scale=(k_perchannel_scale, None),
        v_perchannel_scale=(v_perchannel_scale, None),
        smooth=(smooth, None),
        slot_mapping_cpu=(slot_mapping_cpu, None),
        slot_mapping_xpu=(slot_mapping_xpu, None),
        v_trans=(v_trans, False),
    )
    require_dtype(place, "q", q, *FLOATS)
    require(q.dim() == 3, f"{place}(q=)", "[T, Hq, D]", tuple(q.shape))
    tokens, heads, dim = q.shape
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        require_dtype(place, name, tensor, q.dtype)
        require_shape(place, name, tensor, (k_cache.shape[0], heads, dim))
    require_dtype(place, "out", out, q.dtype)
    require(out.numel() == q.numel(), f"{place}(out=)", f"{tuple(q.shape)}", tuple(out.shape))
    if softmax_lse is not None:
        require_dtype(place, "softmax_lse", softmax_lse, torch.float32)
        require_shape(place, "softmax_lse", softmax_lse, (heads, tokens))
    queries = _bounds(place, "context_seq_lod_cpu", context_seq_lod_cpu, tokens)
    all_keys = k_cache.shape[0]
    if context_kvlen_lod_cpu is not None:
        keys = _bounds(place, "context_kvlen_lod_cpu", context_kvlen_lod_cpu, all_keys)
    else:
        keys = queries if all_keys == tokens else [(0, all_keys)] * len(queries)
    require(len(queries) == len(keys), place, f"{len(queries)} key ranges", len(keys))
    target = out.view(tokens, heads, dim)
    for (q_start, q_stop), (k_start, k_stop) in zip(queries, keys, strict=True):
        if q_start == q_stop:
            continue
        positions = torch.arange(k_stop - k_start, device=q.device)
        first = (k_stop - k_start) - (q_stop - q_start)
        q_positions = torch.arange(q_stop - q_start, device=q.device) + first
        mask = visible_keys(q_positions, positions, is_causal, -1, -1)
        result, lse = attend(
            q[None, q_start:q_stop],
            k_cache[None, k_start:k_stop],
            v_cache[None, k_start:k_stop],
            alpha * dim**-0.5,
            None if mask is None else mask[None],
        )
        target[q_start:q_stop] = result[0]
        if softmax_lse is not None:
            softmax_lse[:, q_start:q_stop] = lse[0]


def _guard_merge(arguments: Arguments) -> None:
    tokens, heads = arguments["prefix_out"].shape[:2]
    for name in ("prefix_lse", "suffix_lse", "out_lse"):
        lse = arguments[name]
        require_guard(
            lse is None or tuple(lse.shape) == (tokens, heads),
            f"attention_merge_stage({name}=)",
            f"[T, Hq] = {(tokens, heads)}",
            None if lse is None else tuple(lse.shape),
            "`attention` writes [Hq, T]: transpose and copy",
        )


@vendor_op("attention_merge_stage", outputs=("out", "out_lse"), guard=_guard_merge)
def attention_merge_stage(
    prefix_out: torch.Tensor,
    prefix_lse: torch.Tensor,
    suffix_out: torch.Tensor,
    suffix_lse: torch.Tensor,
    out: torch.Tensor,
    out_lse: torch.Tensor | None = None,
) -> None:
    """Merge two attention results [T, Hq, D] by their natural-log lse [T, Hq]. Without the guard a
    buffer of another shape is read as if it were [T, Hq], as a kernel would.
    """
    place = "attention_merge_stage"
    tokens, heads = prefix_out.shape[:2]
    require_dtype(place, "prefix_out", prefix_out, *FLOATS)
    for name, tensor in (("suffix_out", suffix_out), ("out", out)):
        require_shape(place, name, tensor, tuple(prefix_out.shape))
        require_dtype(place, name, tensor, prefix_out.dtype)
    for name, tensor in (("prefix_lse", prefix_lse), ("suffix_lse", suffix_lse)):
        require_dtype(place, name, tensor, torch.float32)
        require(
            tensor.numel() == tokens * heads,
            f"{place}({name}=)",
            f"[{tokens}, {heads}]",
            tuple(tensor.shape),
        )
    prefix, suffix = prefix_lse.view(tokens, heads), suffix_lse.view(tokens, heads)
    total = torch.logaddexp(prefix, suffix)
    left = torch.exp(prefix - total).nan_to_num(0.0).unsqueeze(-1)
    right = torch.exp(suffix - total).nan_to_num(0.0).unsqueeze(-1)
    out.copy_(left * prefix_out.float() + right * suffix_out.float())
    if out_lse is not None:
        out_lse.view(tokens, heads).copy_(total)
