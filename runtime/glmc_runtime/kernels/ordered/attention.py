"""Attention over the paged cache, one code path for decode and prefill: the result of a token is
that of its query and the keys before it, in their order."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import require_caches, require_dtype, require_shape
from glmc_runtime.kernels.ordered.native import attention
from glmc_runtime.kernels.schema import ROWS_OF_THE_STEP, schema
from glmc_runtime.kernels.shared_schemas import DECODE, PREFILL


def _attention(arguments: dict[str, Any], starts: torch.Tensor, lengths: torch.Tensor) -> Thunk:
    query, out, tables = arguments["query"], arguments["out"], arguments["block_tables"]
    caches = arguments["key_cache"], arguments["value_cache"]
    require_dtype("query", query)
    require_dtype("key_cache", caches[0], query.dtype)
    require_caches(arguments)
    require_shape("query", query, tuple(query.shape))
    require_shape("out", out, tuple(query.shape))
    require_dtype("block_tables", tables, torch.int32)
    require_shape("block_tables", tables, tuple(tables.shape))
    if query.shape[1] % caches[0].shape[2]:
        raise PlanError(
            "query heads must be a multiple of kv heads",
            found=f"{query.shape[1]}, {caches[0].shape[2]}",
        )
    scale = float(arguments["scale"])
    return attention(query, caches, tables, starts, lengths, scale, out)


@register(
    "ordered.decode_attention",
    schema(
        *DECODE,
        relations=("q_heads % kv_heads == 0",),
        host=True,
    ),
)
def decode_attention(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.decode_attention``, without scratch."""
    lengths = arguments["context_lengths"]
    require_dtype("context_lengths", lengths, torch.int32)
    require_shape("context_lengths", lengths, (arguments["query"].shape[0],))
    with torch.inference_mode(False):
        starts = torch.arange(lengths.shape[0] + 1, dtype=torch.int32)
    return _attention(arguments, starts, lengths)


@register(
    "ordered.prefill_attention",
    schema(
        *PREFILL,
        relations=("q_heads % kv_heads == 0", ROWS_OF_THE_STEP),
        host=True,
    ),
)
def prefill_attention(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.prefill_attention``. Rows beyond cu_seqlens_q[-1] come out as zero."""
    starts, ends, out = arguments["cu_seqlens_q"], arguments["cu_seqlens_k"], arguments["out"]
    sequences = arguments["block_tables"].shape[0]
    for name, sums in (("cu_seqlens_q", starts), ("cu_seqlens_k", ends)):
        require_dtype(name, sums, torch.int32)
        require_shape(name, sums, (sequences + 1,))
    with torch.inference_mode(False):
        lengths = torch.empty(sequences, dtype=torch.int32)
    attend = _attention(arguments, starts, lengths)

    def run() -> None:
        torch.sub(ends[1:], ends[:-1], out=lengths)
        attend()
        out[int(starts[-1]) :].zero_()

    return run
