"""Schemas, and arguments of them, that kernels of several families share."""

from __future__ import annotations

from glmc_runtime.kernels.schema import flag, integer, number, schema, tensor, written

LINEAR = schema(
    tensor("x", "... k"),
    tensor("weight", "n k", like="x"),
    tensor("bias", "n", like="x", required=False),
    written("out", "... n", like="x"),
)
SWIGLU = schema(tensor("x", "... 2*width"), written("out", "... width", like="x"))
GATE = (
    tensor("x", "tokens hidden"),
    tensor("weight", "experts hidden"),
    tensor("bias", "experts", "float32"),
    integer("groups", 1),
    integer("top_groups", 1),
    number("group_fill", infinite=True),
    flag("normalize"),
    number("normalize_eps", 0, 1),
    number("scale"),
    written("logits", "tokens experts", "float32"),
    written("weights", "tokens top_k", "float32"),
    written("ids", "tokens top_k", "int64", below="experts"),
)
GROUPS = (
    "experts % groups == 0",
    "top_groups <= groups",
    "groups == top_groups or 2*groups <= experts",
)
"""Relations of every router."""
EXPERTS = (
    tensor("x", "tokens hidden"),
    tensor("weights", "tokens top_k", "float32"),
    tensor("ids", "tokens top_k", "int64", below="experts"),
    tensor("gate_up", "experts 2*width hidden", like="x"),
    tensor("down", "experts hidden width", like="x"),
    written("out", "tokens hidden", like="x"),
)
LOCAL_EXPERTS = (
    *(tensor("ids", "tokens top_k", "int64") if each.name == "ids" else each for each in EXPERTS),
    tensor("first", "1", "int64"),
)
"""Of a rank's own experts, from ``first`` on; ids may be any, those of others count as nothing."""
LOCAL_ORDER = tuple(
    written(name, "tokens*top_k", "int64") for name in ("local_ids", "sorted_ids", "order", "rows")
)
"""Work space to sort chosen experts by their place among the rank's own."""
EXPERTS_ORDER = LOCAL_ORDER[1:]
"""Work space to sort chosen experts by their number."""
EXPERTS_ROWS = (
    written("gathered", "tokens*top_k hidden", like="x"),
    written("results", "tokens*top_k hidden", like="x"),
    written("merged", "tokens*top_k 2*width", like="x"),
    written("activated", "tokens*top_k width", like="x"),
)
"""Work space of the routed experts, a row for each chosen one."""
CACHE = "blocks block_size kv_heads head_dim"
_PAGES = (
    tensor("key_cache", CACHE, like="query", strided=True),
    tensor("value_cache", CACHE, like="query", strided=True),
    tensor("block_tables", "sequences table", "int32", holds="block_tables"),
)
DECODE = (
    tensor("query", "sequences q_heads head_dim"),
    *_PAGES,
    tensor("context_lengths", "sequences", "int32", holds="context_lengths", on_host=True),
    number("scale"),
    written("out", "sequences q_heads head_dim", like="query"),
)
"""Attention of a query a sequence over the cache, lengths in host memory."""
PREFILL = (
    tensor("query", "tokens q_heads head_dim"),
    *_PAGES,
    tensor("cu_seqlens_q", "sequences+1", "int32", holds="cu_seqlens_q", on_host=True),
    tensor("cu_seqlens_k", "sequences+1", "int32", holds="cu_seqlens_k", on_host=True),
    number("scale"),
    written("out", "tokens q_heads head_dim", like="query"),
)
"""Attention of packed queries over the cache, lengths in host memory."""
