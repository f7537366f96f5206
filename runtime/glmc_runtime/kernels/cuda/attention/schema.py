"""Schemas of attention over the paged cache."""

from __future__ import annotations

from glmc_runtime.kernels.schema import ROWS_OF_THE_STEP, number, schema, tensor, written

_CACHE = "blocks kv_heads block_size head_dim"
_CACHES = (
    tensor("key_cache", _CACHE, like="query", strided=True),
    tensor("value_cache", _CACHE, like="query", strided=True),
    tensor("block_tables", "sequences table", "int32", holds="block_tables"),
)

PREFILL = schema(
    tensor("query", "tokens q_heads head_dim"),
    *_CACHES,
    tensor("cu_seqlens_q", "sequences+1", "int32", holds="cu_seqlens_q"),
    tensor("cu_seqlens_k", "sequences+1", "int32", holds="cu_seqlens_k"),
    tensor("cu_seqlens_q_host", "sequences+1", "int32", holds="cu_seqlens_q", on_host=True),
    tensor("cu_seqlens_k_host", "sequences+1", "int32", holds="cu_seqlens_k", on_host=True),
    number("scale"),
    written("out", "tokens q_heads head_dim", like="query"),
    relations=("q_heads % kv_heads == 0", ROWS_OF_THE_STEP),
    host=True,
)
DECODE = schema(
    tensor("query", "sequences q_heads head_dim"),
    *_CACHES,
    tensor("context_lengths", "sequences", "int32", holds="context_lengths"),
    number("scale"),
    written("out", "sequences q_heads head_dim", like="query"),
    relations=("q_heads % kv_heads == 0",),
)
