"""Rows of the vendor's cache write and attention."""

from __future__ import annotations

from glmc_runtime.kernels.schema import (
    ROWS_OF_THE_STEP,
    ArgumentSchema,
    flag,
    integer,
    number,
    tensor,
    written,
)
from glmc_runtime.kernels.vendor_functions.row import (
    P_A,
    P_B,
    P_C,
    Keyword,
    VendorFunction,
    keywords,
    optional,
    unused,
)

HEAD_SIZES = (32, 64, 80, 96, 112, 120, 128, 192, 256, 512)
"""Of a KV cache."""
BLOCK_SIZES = (16, 32, 64, 128)
"""Of a KV cache: no public caller uses others."""
_CACHE = "blocks kv_heads cache_block head_dim"
_GROUPED = "head_num % kv_heads == 0"
_ATTENTION = "vllm-kunlun: vllm_kunlun/v1/attention/backends/kunlun_attn.py"
_ATTENTION_29 = "vllm-kunlun-exp: vllm_kunlun/v1/attention/backends/kunlun_attn.py"


def _index(name: str, shape: str, holds: str, on_host: bool = False) -> ArgumentSchema:
    return tensor(name, shape, "int32", holds=holds, on_host=on_host)


ATTENTION = (
    VendorFunction(
        "reshape_and_cache_flash",
        keywords(
            tensor("key", "tokens kv_heads head_dim"),
            tensor("value", "tokens kv_heads head_dim", like="key"),
            written("key_cache", _CACHE, like="key", reads=True),
            written("value_cache", _CACHE, like="key", reads=True),
            tensor("slot_mapping", "tokens", "int64", "int32", holds="slot_mapping"),
            optional(flag("BLHD_LAYOUT", only=False), False),
        ),
        hostile=("key", "value", "key_cache", "value_cache"),
        limits=("head sizes of the cache", "no negative slot: whether it is skipped is unknown"),
        source=(_ATTENTION, "vllm-kunlun: vllm_kunlun/ops/paged_attn.py"),
    ),
    VendorFunction(
        "prefill_attention",
        keywords(
            tensor("q", "tokens head_num head_dim"),
            tensor("k", _CACHE, like="q"),
            tensor("v", _CACHE, like="q"),
            written("out", "tokens head_num head_dim", like="q"),
            flag("is_causal", only=True),
            optional(flag("is_prefix_cache", only=True), False),
            optional(number("alpha"), 1.0, profiles=(P_A, P_C)),
            optional(_index("block_table", "sequences table", "block_tables"), None),
            optional(_index("context_qlen_lod_cpu", "sequences+1", "cu_seqlens_q", True), None),
            optional(_index("context_qlen_lod_xpu", "sequences+1", "cu_seqlens_q"), None),
            optional(_index("context_kvlen_lod_cpu", "sequences+1", "cu_seqlens_k", True), None),
            optional(_index("context_kvlen_lod_xpu", "sequences+1", "cu_seqlens_k"), None),
            *unused(alibi_slopes=None),
            Keyword("softmax_lse", None, writes=True),
            *unused(swa_left=-1, swa_right=-1, sink=None),
        ),
        relations=(_GROUPED, ROWS_OF_THE_STEP),
        real_rows=True,
        limits=("without alpha (P-B) the scale is head_dim ** -0.5",),
        source=(_ATTENTION, _ATTENTION_29),
    ),
    VendorFunction(
        "speculative_attention",
        keywords(
            written("out", "batch head_num head_dim"),
            tensor("q", "1 batch head_num head_dim", like="out"),
            tensor("k_cache", _CACHE, like="out"),
            tensor("v_cache", _CACHE, like="out"),
            _index("context_lens_cpu", "batch", "context_lengths", True),
            _index("context_lens_xpu", "batch", "context_lengths"),
            integer("batch_num", equals="batch"),
            integer("qlen", choices=(1,)),
            integer("max_context_len", 1),
            integer("head_num", 1),
            integer("head_dim", 1),
            number("scale"),
            integer("kv_head_num", equals="kv_heads"),
            integer("block_size", equals="cache_block"),
            integer("max_num_blocks_per_seq", equals="table"),
            optional(integer("max_window_size", -1, choices=(-1,)), -1, profiles=(P_A,)),
            _index("block_tables", "batch table", "block_tables"),
            Keyword("sink", None, profiles=(P_A, P_C)),
            Keyword("qlod_cpu", None, profiles=(P_C,), on_host=True),
            Keyword("qlod_xpu", None, profiles=(P_C,)),
        ),
        relations=(_GROUPED, "max_context_len <= table*cache_block"),
        real_rows=True,
        limits=("a batch of 1024 fails (vllm-kunlun issue 477); refused above 512",),
        source=(_ATTENTION, _ATTENTION_29, "vllm-kunlun issue 477"),
    ),
    VendorFunction(
        "paged_attention",
        keywords(
            written("out", "batch head_num head_dim"),
            tensor("x", "batch head_num head_dim", like="out"),
            tensor("k_cache", _CACHE, like="out"),
            tensor("v_cache", _CACHE, like="out"),
            _index("block_tables", "batch table", "block_tables"),
            _index("context_lens_cpu", "batch", "context_lengths", True),
            _index("context_lens_xpu", "batch", "context_lengths"),
            optional(flag("is_context", only=False), False),
            optional(flag("is_causal", only=True), True),
            optional(integer("vo_head_dim", equals="head_dim"), -1),
        ),
        profiles=(P_A, P_B),
        relations=(_GROUPED,),
        real_rows=True,
        limits=("no scale: head_dim ** -0.5", "refused above a batch of 512, as its sibling"),
        source=("vllm-kunlun: vllm_kunlun/ops/_kunlun_ops.py", _ATTENTION_29),
    ),
)
