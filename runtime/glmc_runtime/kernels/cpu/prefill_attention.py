"""Causal attention of packed sequences over the paged cache.

A kv head and its group of query heads are batch and head of one flash attention, with keys and
values expanded by stride, so nothing is repeated. A sequence whose blocks are scattered is gathered
first: beside the products of a prefill that costs nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import require_caches, require_dtype, require_shape
from glmc_runtime.kernels.cpu.cache_memory import Slots, blocks_follow, slots_of
from glmc_runtime.kernels.cpu.runs import Run, find_runs
from glmc_runtime.kernels.schema import ROWS_OF_THE_STEP, schema
from glmc_runtime.kernels.shared_schemas import PREFILL


def _context(slots: Slots, runs: tuple[Run, ...], group: int) -> torch.Tensor:
    """[slots, kv_heads, head_dim] -> [kv_heads, group, tokens, head_dim], group by stride 0."""
    parts = [slots.narrow(0, start, count) for start, count in runs]
    tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
    return tokens.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)


def _require_queries(query_ends: list[int], context_ends: list[int], tokens: int) -> None:
    """Raise IndexError where slices would count from the end, or be cut short without a word."""
    if query_ends[0] != 0 or query_ends[-1] > tokens:
        raise IndexError(
            f"cu_seqlens_q is from {query_ends[0]} to {query_ends[-1]}, beside {tokens} rows: "
            "expected from 0 to no more than there are"
        )
    pairs = zip(pairwise(query_ends), pairwise(context_ends), strict=True)
    for index, ((first, last), (begin, end)) in enumerate(pairs):
        if last != first and not 0 < last - first <= end - begin:
            raise IndexError(
                f"sequence {index} has {last - first} queries in cu_seqlens_q and {end - begin} "
                "tokens in cu_seqlens_k: expected its queries to be the last of its tokens"
            )


@register(
    "cpu.prefill_attention",
    schema(
        *PREFILL,
        relations=("q_heads % kv_heads == 0", ROWS_OF_THE_STEP),
        host=True,
    ),
)
def prefill_attention(arguments: dict[str, Any]) -> Thunk:
    """query and out [tokens, q_heads, head_dim]; caches as for ``cpu.decode_attention``;
    block_tables int32 [sequences, blocks_per_sequence]; cu_seqlens_q and cu_seqlens_k int32
    [sequences + 1] in host memory. Rows beyond cu_seqlens_q[-1] come out as zero. Queries that
    query does not have, or of which a sequence has fewer tokens, raise IndexError in the step."""
    query, out, scale = arguments["query"], arguments["out"], float(arguments["scale"])
    key_cache, value_cache = arguments["key_cache"], arguments["value_cache"]
    tables = arguments["block_tables"]
    cu_seqlens_q, cu_seqlens_k = arguments["cu_seqlens_q"], arguments["cu_seqlens_k"]
    tokens, q_heads, head_dim = query.shape
    block_size, kv_heads = key_cache.shape[1:3]
    require_dtype("query", query)
    require_shape("out", out, tuple(query.shape))
    require_caches(arguments)
    for name, cu_seqlens in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        require_shape(name, cu_seqlens, (tables.shape[0] + 1,))
    group = q_heads // kv_heads
    queries = query.view(tokens, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    results = out.view(tokens, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    keys, values = slots_of(key_cache), slots_of(value_cache)
    follow = blocks_follow(key_cache)

    def run() -> None:
        rows, query_ends, context_ends = (
            tables.tolist(),
            cu_seqlens_q.tolist(),
            cu_seqlens_k.tolist(),
        )
        _require_queries(query_ends, context_ends, tokens)
        for index, blocks in enumerate(rows):
            start, stop = query_ends[index], query_ends[index + 1]
            if start == stop:
                continue
            length = context_ends[index + 1] - context_ends[index]
            runs = find_runs(blocks, length, block_size, follow)
            mask = None
            if stop - start != length:
                mask = torch.ones(stop - start, length, dtype=torch.bool)
                mask.tril_(length - (stop - start))
            attended = F.scaled_dot_product_attention(
                queries[:, :, start:stop],
                _context(keys, runs, group),
                _context(values, runs, group),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
            )
            results[:, :, start:stop].copy_(attended)
        out[query_ends[-1] :].zero_()

    return run
