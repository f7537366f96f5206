"""Emulated prefill attention: `prefill_attention`.

Record, section 2.6. The kernel divides by sqrt(D) itself and then multiplies by `alpha`, so
alpha = wanted_scale * sqrt(D). It writes its lse as [Hq, T]. A lod is an int32 prefix sum of length
B+1; the host copy is the one read.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from glmc_runtime.kernels.vendor_functions.row import Arguments

from . import sums
from .attention_core import attend, gather_pages, require_heads, used_blocks, visible_keys
from .attention_decode import guard_lengths
from .contract import (
    FLOATS,
    emulates,
    require,
    require_dtype,
    require_shape,
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


@emulates("prefill_attention", guard=_guard_prefill)
def prefill_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    is_causal: bool,
    is_prefix_cache: bool,
    block_table: torch.Tensor | None,
    context_qlen_lod_cpu: torch.Tensor | None,
    context_qlen_lod_xpu: torch.Tensor | None,
    context_kvlen_lod_cpu: torch.Tensor | None,
    context_kvlen_lod_xpu: torch.Tensor | None,
    softmax_lse: torch.Tensor | None,
    swa_left: int,
    swa_right: int,
    sink: torch.Tensor | None,
    alpha: float = 1.0,
) -> None:
    """Variable-length prefill. q, out [Tq, Hq, D]; k, v packed [Tk, Hkv, D] or, with
    is_prefix_cache, caches [num_blocks, Hkv, block_size, D] with block_table and kv lods that
    count the prefix too. Queries are the last positions of their request. Without alpha the scale
    is 1/sqrt(D). swa_left = W lets a query see W keys before its own (assumption).
    """
    place = "prefill_attention"
    require_dtype(place, "q", q, *FLOATS)
    require(q.dim() == 3, f"{place}(q=)", "[Tq, Hq, D]", tuple(q.shape))
    tokens, heads, dim = q.shape
    require_dtype(place, "k", k, q.dtype)
    require_dtype(place, "v", v, q.dtype)
    require_dtype(place, "out", out, q.dtype)
    require(out.numel() == q.numel(), f"{place}(out=)", f"{tuple(q.shape)}", tuple(out.shape))
    require_heads(place, "sink", sink, heads)
    queries = _bounds(place, "context_qlen_lod_cpu", context_qlen_lod_cpu, tokens)
    if is_prefix_cache:
        keys, blocks = _paged_keys(place, dim, k, v, block_table, context_kvlen_lod_cpu)
    else:
        given = context_kvlen_lod_cpu if context_kvlen_lod_cpu is not None else context_qlen_lod_cpu
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
        if sums.is_ordered():
            limited = {
                "is_causal": (is_causal, True),
                "swa_left": (swa_left, -1),
                "swa_right": (swa_right, -1),
                "sink": (sink, None),
                "softmax_lse": (softmax_lse, None),
            }
            scale, lengths = alpha * dim**-0.5, [length]
            rows = q[None, q_start:q_stop]
            attended = sums.causal(place, rows, key[None], value[None], lengths, scale, limited)
            target[q_start:q_stop] = attended[0]
            continue
        positions = torch.arange(length, device=q.device)
        q_positions = positions[length - (q_stop - q_start) :] if is_causal else None
        if q_positions is None:
            q_positions = torch.arange(q_stop - q_start, device=q.device)
        mask = visible_keys(q_positions, positions, is_causal, swa_left, swa_right)
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
