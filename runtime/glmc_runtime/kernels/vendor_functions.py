"""The vendor functions that an artifact may call, with the schema of what glmc passes to each.

One entry for each function and each profile of the vendor's wheels (P-A, P-B, P-C) that has it. The
wheels take more keywords; what nothing of glmc passes is not in a schema, and no artifact passes it
either. Indices that one call hands to another are held together by name and bound, so that a plan
can't have a kernel read outside of its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glmc_runtime.kernels.schema import (
    ROWS_OF_THE_STEP,
    ArgumentSchema,
    KernelSchema,
    flag,
    integer,
    nothing,
    number,
    schema,
    tensor,
    written,
)

P_A, P_B, P_C = "P-A", "P-B", "P-C"
PROFILES = (P_A, P_B, P_C)
CLUSTERS = 12
"""Rows of the expert histogram: one per cluster of the chip."""
_CACHE = "blocks kv_heads cache_block head_dim"
_GROUPED = ("head_num % kv_heads == 0",)


def _same(found: KernelSchema) -> Mapping[str, KernelSchema]:
    return MappingProxyType(dict.fromkeys(PROFILES, found))


def _index(name: str, shape: str, holds: str, on_host: bool = False) -> ArgumentSchema:
    return tensor(name, shape, "int32", holds=holds, on_host=on_host)


def _prefill(alpha: bool) -> KernelSchema:
    return schema(
        tensor("q", "tokens head_num head_dim"),
        tensor("k", _CACHE, like="q"),
        tensor("v", _CACHE, like="q"),
        written("out", "tokens head_num head_dim", like="q"),
        flag("is_causal", only=True),
        flag("is_prefix_cache", only=True),
        *([number("alpha")] if alpha else []),
        _index("block_table", "sequences table", "block_tables"),
        _index("context_qlen_lod_cpu", "sequences+1", "query_lod", on_host=True),
        _index("context_qlen_lod_xpu", "sequences+1", "query_lod"),
        _index("context_kvlen_lod_cpu", "sequences+1", "context_lod", on_host=True),
        _index("context_kvlen_lod_xpu", "sequences+1", "context_lod"),
        relations=(*_GROUPED, ROWS_OF_THE_STEP),
        host=True,
    )


def _of_decode(*more: ArgumentSchema, relations: tuple[str, ...] = ()) -> KernelSchema:
    return schema(
        written("out", "batch head_num head_dim"),
        tensor("k_cache", _CACHE, like="out"),
        tensor("v_cache", _CACHE, like="out"),
        _index("block_tables", "batch table", "block_tables"),
        _index("context_lens_cpu", "batch", "context_lengths", on_host=True),
        _index("context_lens_xpu", "batch", "context_lengths"),
        *more,
        relations=(*_GROUPED, *relations),
        host=True,
    )


def _speculative(window: bool) -> KernelSchema:
    return _of_decode(
        tensor("q", "1 batch head_num head_dim", like="out"),
        integer("batch_num", equals="batch"),
        integer("qlen", choices=(1,)),
        integer("max_context_len", 1),
        integer("head_num", 1),
        integer("head_dim", 1),
        number("scale"),
        integer("kv_head_num", equals="kv_heads"),
        integer("block_size", equals="cache_block"),
        integer("max_num_blocks_per_seq", equals="table"),
        *([integer("max_window_size", -1, choices=(-1,))] if window else []),
        relations=("max_context_len <= table*cache_block",),
    )


_PAGED = _of_decode(
    tensor("x", "batch head_num head_dim", like="out"),
    flag("is_context", only=False),
    flag("is_causal", only=True),
    integer("vo_head_dim", equals="head_dim"),
)


def _router(histogram: str) -> KernelSchema:
    return schema(
        tensor("x", "tokens experts", "float32"),
        written("topk_index", "tokens top_k", "int32", below="experts"),
        written("norm_score", "tokens top_k", "float32"),
        _histogram(histogram, "topk_index"),
        tensor("bias", "experts", "float32"),
        number("scale"),
        integer("n_group", choices=(1,)),
        integer("topk_group", choices=(1,)),
        relations=("top_k <= experts", "experts <= 512"),
    )


def _zeroed(
    name: str, shape: str, leaves: str, below: str | None = None, of: str | None = None
) -> ArgumentSchema:
    """Integers that a kernel adds to: they are zeros before."""
    return written(
        name, shape, "int32", reads=True, holds="zeros", leaves=leaves, below=below, of=of
    )


def _histogram(name: str, ids: str) -> ArgumentSchema:
    return _zeroed(name, f"{CLUSTERS} experts", "block_statistic", of=ids)


SCHEMAS: Mapping[str, Mapping[str, KernelSchema]] = MappingProxyType(
    {
        "kunlun_ops.rmsnorm": _same(
            schema(
                tensor("x", "rows width"),
                tensor("weight", "width", like="x"),
                written("output", "rows width", like="x"),
                number("eps", 0, 1),
            )
        ),
        "kunlun_ops.add_rmsnorm": _same(
            schema(
                tensor("x", "rows width"),
                tensor("y", "rows width", like="x"),
                tensor("weight", "width", like="x"),
                written("output", "rows width", like="x"),
                number("eps", 0, 1),
                written("residual_output", "rows width", like="x"),
                aliases=(("output", "x"), ("residual_output", "y")),
            )
        ),
        "kunlun_ops.swiglu": _same(
            schema(tensor("x", "... 2*width"), written("y", "... width", like="x"))
        ),
        "kunlun_ops.rotary_embedding": _same(
            schema(
                tensor("positions", "tokens", "int64", holds="positions", below="places"),
                written("query", "tokens query_width", reads=True),
                written("key", "tokens key_width", like="query", reads=True),
                integer("head_size", 1),
                tensor("cos_sin_cache", "places rotary", like="query"),
                flag("is_neox"),
                relations=(
                    "query_width % head_size == 0",
                    "key_width % head_size == 0",
                    "rotary <= head_size",
                    "rotary % 2 == 0",
                ),
            )
        ),
        "kunlun_ops.reshape_and_cache_flash": _same(
            schema(
                tensor("key", "tokens kv_heads head_dim"),
                tensor("value", "tokens kv_heads head_dim", like="key"),
                written("key_cache", _CACHE, like="key", reads=True),
                written("value_cache", _CACHE, like="key", reads=True),
                tensor("slot_mapping", "tokens", "int64", "int32", holds="slot_mapping"),
                flag("BLHD_LAYOUT", only=False),
            )
        ),
        "kunlun_ops.prefill_attention": MappingProxyType(
            {P_A: _prefill(True), P_B: _prefill(False), P_C: _prefill(True)}
        ),
        "kunlun_ops.speculative_attention": MappingProxyType(
            {P_A: _speculative(True), P_B: _speculative(False), P_C: _speculative(False)}
        ),
        "kunlun_ops.paged_attention": MappingProxyType({P_A: _PAGED, P_B: _PAGED}),
        "kunlun_ops.matmul": _same(
            schema(
                tensor("x", "rows k"),
                tensor("w", "n k", like="x"),
                written("out", "rows n", like="x"),
                flag("w_trans", only=True),
                tensor("bias", "n", "float32", required=False),
            )
        ),
        "kunlun_ops.moe_sigmoid_group_topk_norm": MappingProxyType(
            {
                P_A: _router("block_static"),
                P_B: _router("block_static"),
                P_C: _router("block_statistic"),
            }
        ),
        "kunlun_ops.gen_block_statistic": _same(
            schema(
                tensor("topk_ids", "tokens top_k", "int32", below="experts"),
                _histogram("block_statistic", "topk_ids"),
            )
        ),
        "kunlun_ops.moe_pre_sorted": _same(
            schema(
                tensor("x", "tokens hidden"),
                tensor("topk_index", "tokens top_k", "int32", below="experts"),
                tensor(
                    "block_statistic",
                    f"{CLUSTERS} experts",
                    "int32",
                    holds="block_statistic",
                    of="topk_index",
                ),
                written("moe_expand", "tokens*top_k hidden", like="x"),
                written(
                    "moe_index",
                    "tokens*top_k",
                    "int32",
                    leaves="sorted_index",
                    below="tokens*top_k",
                ),
                _zeroed("expert_m", "experts", "expert_counts"),
                _zeroed("sorted_tokens_num_lod", "experts+1", "expert_lod", "tokens*top_k+1"),
                flag("index_have_neg", only=False),
            )
        ),
        "kunlun_ops.moe_fc": _same(
            schema(
                tensor("x", "tokens*moe_topk k"),
                tensor("weight", "experts n k", like="x"),
                written("y", "tokens moe_topk n", like="x"),
                tensor(
                    "sorted_tokens_num_lod",
                    "experts+1",
                    "int32",
                    holds="expert_lod",
                    below="tokens*moe_topk+1",
                ),
                tensor(
                    "sorted_tokens_idx",
                    "tokens*moe_topk",
                    "int32",
                    holds="sorted_index",
                    below="tokens*moe_topk",
                ),
                integer("moe_topk", 1),
                nothing("act"),
                flag("sort_mode", only=True, required=False),
            )
        ),
        "kunlun_ops.moe_post": _same(
            schema(
                tensor("x", "tokens top_k hidden"),
                tensor(
                    "moe_index",
                    "tokens top_k",
                    "int32",
                    holds="sorted_index",
                    below="tokens*top_k",
                ),
                tensor("normed_scale", "tokens top_k", "float32"),
                tensor("dequant_scale", "tokens top_k", "float32"),
                written("y", "tokens hidden", like="x"),
            )
        ),
    }
)
"""The schemas by function and profile. A function that glmc lowers to is added here."""
