"""Rotation, cache write and attention over the paged cache as Kunlun calls."""

from __future__ import annotations

import torch

from glmc.backends.kunlun import limits
from glmc.backends.kunlun.abi import abi_profile
from glmc.backends.kunlun.emit import Passed, real, vendor
from glmc.backends.kunlun.rules_dense import norm
from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc.lowering.values import product, rope_table, view
from glmc_runtime.format.plan import ExtentArgument

PAGED_DECODE_PROFILE = "P-B"


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    """Split, norm of the heads, rotation in place, cache write: one call each.

    The vendor's fused form is left alone: its eps is baked in and unknown, and its partial
    rotation has not been called by anyone since 0.10.
    """
    qkv = op.tensor("qkv")
    q_heads, kv_heads = op.integer("q_heads"), op.integer("kv_heads")
    head_dim = op.integer("head_dim")
    limits.check_head(head_dim, q_heads, kv_heads, op.node)
    q_norm, k_norm = op.optional_tensor("q_norm"), op.optional_tensor("k_norm")
    tokens = product(qkv.shape[:-1])
    q = emit.result(0)
    k = emit.temporary("k", (tokens, fixed(kv_heads), fixed(head_dim)), qkv.dtype)
    v = emit.temporary("v", k.shape, qkv.dtype)
    normed = q_norm is not None and k_norm is not None
    raw_q = emit.temporary("raw_q", q.shape, qkv.dtype) if normed else q
    raw_k = emit.temporary("raw_k", k.shape, qkv.dtype) if normed else k
    sizes = [q_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    emit.call(
        "aten.split_columns",
        writes=("out_0", "out_1", "out_2"),
        x=view(qkv, tokens, sum(sizes)),
        sizes=sizes,
        out_0=view(raw_q, tokens, sizes[0]),
        out_1=view(raw_k, tokens, sizes[1]),
        out_2=view(v, tokens, sizes[2]),
    )
    if q_norm is not None and k_norm is not None:
        norm(emit, raw_q, q_norm, q, op.number("norm_eps"))
        norm(emit, raw_k, k_norm, k, op.number("norm_eps"))
    table = rope_table(op, emit, qkv.dtype)
    limits.check_rotary(table.dim(1), head_dim, op.node)
    positions, slots = op.tensor("positions"), op.tensor("slot_mapping")
    limits.check_index_dtype(positions.dtype, torch.int64, "positions", op.node)
    vendor(
        emit,
        "rotary_embedding",
        positions=view(positions, tokens),
        query=view(q, tokens, sizes[0]),
        key=view(k, tokens, sizes[1]),
        head_size=head_dim,
        cos_sin_cache=table,
        is_neox=not op.flag("interleaved"),
    )
    vendor(
        emit,
        "reshape_and_cache_flash",
        key=k,
        value=v,
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        slot_mapping=view(slots, tokens),
        BLHD_LAYOUT=False,
    )
    emit.bind(1, op.tensor("k_cache"))
    emit.bind(2, op.tensor("v_cache"))


def prefill_attention(op: Op, emit: Emitter) -> None:
    """The paged form, with or without a cached prefix, over the real tokens only.

    The result is zeroed first: padded rows are not written, and what is there must not be a NaN
    that a router later meets.
    """
    q, out = op.tensor("q"), _zeroed_result(emit)
    head_dim, scale = q.dim(-1), op.number("scale")
    given: dict[str, Passed] = {}
    if abi_profile(emit.options.abi_profile).has_keyword("prefill_attention", "alpha"):
        given["alpha"] = scale * head_dim**0.5
    else:
        limits.check_default_scale(scale, head_dim, "prefill_attention", op.node)
    vendor(
        emit,
        "prefill_attention",
        q=real(q),
        k=op.tensor("k_cache"),
        v=op.tensor("v_cache"),
        out=real(out),
        is_causal=True,
        is_prefix_cache=True,
        block_table=real(_int32(op, "block_tables")),
        context_qlen_lod_cpu=real(emit.input("cu_seqlens_q_host")),
        context_qlen_lod_xpu=real(_int32(op, "cu_seqlens_q")),
        context_kvlen_lod_cpu=real(emit.input("cu_seqlens_k_host")),
        context_kvlen_lod_xpu=real(_int32(op, "cu_seqlens_k")),
        **given,
    )


def decode_attention(op: Op, emit: Emitter) -> None:
    """One query per sequence, over the real sequences only; padded rows come out as zero."""
    q, out = op.tensor("q"), _zeroed_result(emit)
    batch, heads, head_dim = q.shape[0], q.dim(1), q.dim(2)
    scale = op.number("scale")
    lengths = emit.input("context_lengths_host")
    shared: dict[str, Passed] = {
        "k_cache": op.tensor("k_cache"),
        "v_cache": op.tensor("v_cache"),
        "block_tables": real(_int32(op, "block_tables")),
        "context_lens_cpu": real(lengths),
        "context_lens_xpu": real(_int32(op, "context_lengths")),
        "out": real(out),
    }
    if emit.options.abi_profile == PAGED_DECODE_PROFILE:
        limits.check_default_scale(scale, head_dim, "paged_attention", op.node)
        vendor(
            emit,
            "paged_attention",
            x=real(q),
            is_context=False,
            is_causal=True,
            vo_head_dim=head_dim,
            **shared,
        )
        return
    if abi_profile(emit.options.abi_profile).has_keyword(
        "speculative_attention", "max_window_size"
    ):
        shared["max_window_size"] = -1
    vendor(
        emit,
        "speculative_attention",
        q=real(view(q, 1, batch, heads, head_dim)),
        batch_num=ExtentArgument(batch, real=True),
        qlen=1,
        max_context_len=emit.options.max_context,
        head_num=heads,
        head_dim=head_dim,
        scale=scale,
        kv_head_num=op.tensor("k_cache").dim(1),
        block_size=op.tensor("k_cache").dim(2),
        max_num_blocks_per_seq=op.tensor("block_tables").dim(1),
        **shared,
    )


def _zeroed_result(emit: Emitter) -> Value:
    out = emit.result()
    emit.call("aten.zero", writes=("out",), out=out)
    return out


def _int32(op: Op, name: str) -> Value:
    value = op.tensor(name)
    limits.check_index_dtype(value.dtype, torch.int32, name, op.node)
    return value


RULES = {
    "qkv_rope_cache": qkv_rope_cache,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
}
