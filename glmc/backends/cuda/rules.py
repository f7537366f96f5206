"""One rule per semantic op for CUDA: one launch each, or two where a sum must be split.

Scratch that depends on how a kernel is tuned is the kernel's own (``kernels/cuda/workspace.py``);
what a plan can size is in the arena.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view

FLOAT = torch.float32


def embedding(op: Op, emit: Emitter) -> None:
    out = emit.result()
    ids = flat(op.tensor("token_ids"))
    # A session has checked its ids. Those of a traced program nobody has, and torch refuses wrong
    # ones where ours gives NaN.
    emit.call(
        "aten.embedding" if op.phase == "traced" else "cuda.embedding",
        writes=("out",),
        ids=ids,
        weight=op.tensor("weight"),
        out=view(out, ids.shape[0], out.shape[-1]),
    )


def select_rows(op: Op, emit: Emitter) -> None:
    emit.call(
        "aten.index_select",
        writes=("out",),
        x=op.tensor("x"),
        rows=op.tensor("rows"),
        out=emit.result(),
    )


def linear(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.linear",
        writes=("out",),
        x=as_rows(op.tensor("x")),
        weight=op.tensor("weight"),
        bias=op.optional_tensor("bias"),
        out=as_rows(emit.result()),
    )


def _linear_swiglu(emit: Emitter, x: Value, weight: Value, out: Value) -> None:
    merged = emit.temporary("merged", (x.shape[0], weight.shape[0]), x.dtype)
    emit.call(
        "cuda.linear_swiglu", writes=("merged", "out"), x=x, weight=weight, merged=merged, out=out
    )


def linear_swiglu(op: Op, emit: Emitter) -> None:
    _linear_swiglu(emit, as_rows(op.tensor("x")), op.tensor("weight"), as_rows(emit.result()))


def swiglu(op: Op, emit: Emitter) -> None:
    x, out = as_rows(op.tensor("x")), as_rows(emit.result())
    emit.call("cuda.swiglu", writes=("out",), x=x, out=out)


def silu_mul(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.silu_mul",
        writes=("out",),
        gate=op.tensor("gate"),
        up=op.tensor("up"),
        out=emit.result(),
    )


def rms_norm(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.rms_norm",
        writes=("out",),
        x=as_rows(op.tensor("x")),
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result()),
    )


def add_rms_norm(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.add_rms_norm",
        writes=("out", "total"),
        x=as_rows(op.tensor("x")),
        residual=as_rows(op.tensor("residual")),
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result(0)),
        total=as_rows(emit.result(1)),
    )


def norm_add_rms_norm(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.norm_add_rms_norm",
        writes=("out", "total"),
        x=as_rows(op.tensor("x")),
        norm_weight=op.tensor("norm_weight"),
        norm_eps=op.number("norm_eps"),
        residual=as_rows(op.tensor("residual")),
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result(0)),
        total=as_rows(emit.result(1)),
    )


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    qkv = as_rows(op.tensor("qkv"))
    heads, head_dim = fixed(op.integer("q_heads")), fixed(op.integer("head_dim"))
    emit.call(
        "cuda.qkv_rope_cache",
        writes=("query", "key_cache", "value_cache"),
        qkv=qkv,
        query=view(emit.result(0), qkv.shape[0], heads, head_dim),
        **_written(op, emit, qkv),
    )
    emit.bind(1, op.tensor("k_cache"))
    emit.bind(2, op.tensor("v_cache"))


def _written(op: Op, emit: Emitter, qkv: Value) -> dict[str, Any]:
    """What rotates the heads of a projection and writes keys and values to the cache."""
    return {
        "q_norm": op.optional_tensor("q_norm"),
        "k_norm": op.optional_tensor("k_norm"),
        "norm_eps": op.number("norm_eps"),
        "cos_sin": rope_table(op, emit, qkv.dtype),
        "positions": flat(op.tensor("positions")),
        "slot_mapping": flat(op.tensor("slot_mapping")),
        "key_cache": op.tensor("k_cache"),
        "value_cache": op.tensor("v_cache"),
        "interleaved": op.flag("interleaved"),
    }


def prefill_attention(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.prefill_attention",
        writes=("out",),
        host=True,
        query=op.tensor("q"),
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        block_tables=op.tensor("block_tables"),
        cu_seqlens_q=op.tensor("cu_seqlens_q"),
        cu_seqlens_k=op.tensor("cu_seqlens_k"),
        cu_seqlens_q_host=emit.input("cu_seqlens_q_host"),
        cu_seqlens_k_host=emit.input("cu_seqlens_k_host"),
        scale=op.number("scale"),
        out=emit.result(),
    )


def decode_attention(op: Op, emit: Emitter) -> None:
    emit.call(
        "cuda.decode_attention",
        writes=("out",),
        query=op.tensor("q"),
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        block_tables=op.tensor("block_tables"),
        context_lengths=op.tensor("context_lengths"),
        scale=op.number("scale"),
        out=emit.result(),
    )


def rope_decode_attention(op: Op, emit: Emitter) -> None:
    qkv = as_rows(op.tensor("qkv"))
    emit.call(
        "cuda.rope_decode_attention",
        writes=("out", "key_cache", "value_cache"),
        qkv=qkv,
        block_tables=op.tensor("block_tables"),
        context_lengths=op.tensor("context_lengths"),
        scale=op.number("scale"),
        out=emit.result(0),
        **_written(op, emit, qkv),
    )
    emit.bind(1, op.tensor("k_cache"))
    emit.bind(2, op.tensor("v_cache"))


def moe_gate(op: Op, emit: Emitter) -> None:
    x, weight = as_rows(op.tensor("x")), op.tensor("weight")
    emit.call(
        "cuda.moe_gate",
        writes=("weights", "ids", "logits"),
        x=x,
        weight=weight,
        bias=op.tensor("bias"),
        groups=op.integer("groups"),
        top_groups=op.integer("top_groups"),
        group_fill=op.number("group_fill"),
        normalize=op.flag("normalize"),
        normalize_eps=op.number("normalize_eps"),
        scale=op.number("scale"),
        logits=emit.temporary("logits", (x.shape[0], weight.shape[0]), FLOAT),
        weights=emit.result(0),
        ids=emit.result(1),
    )


def _moe_ffn(
    op: Op, emit: Emitter, shared_gate_up: Value | None, shared_down: Value | None
) -> None:
    emit.call(
        "cuda.moe_ffn",
        writes=("out",),
        x=as_rows(op.tensor("x")),
        weights=op.tensor("weights"),
        ids=op.tensor("ids"),
        gate_up=op.tensor("gate_up"),
        down=op.tensor("down"),
        shared_gate_up=shared_gate_up,
        shared_down=shared_down,
        out=as_rows(emit.result()),
    )


def moe_ffn(op: Op, emit: Emitter) -> None:
    _moe_ffn(op, emit, None, None)


def moe_ffn_shared(op: Op, emit: Emitter) -> None:
    _moe_ffn(op, emit, op.tensor("shared_gate_up"), op.tensor("shared_down"))


def shared_expert(op: Op, emit: Emitter) -> None:
    """Where it could not join the routed experts: ``routed + linear(linear_swiglu(x))``."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    activated = emit.temporary("activated", (x.shape[0], down.shape[1]), x.dtype)
    projected = emit.temporary("projected", x.shape, x.dtype)
    _linear_swiglu(emit, x, gate_up, activated)
    emit.call("cuda.linear", writes=("out",), x=activated, weight=down, bias=None, out=projected)
    emit.call(
        "aten.add",
        writes=("out",),
        x=as_rows(op.tensor("routed")),
        y=projected,
        out=as_rows(emit.result()),
    )


RULES = {
    "embedding": embedding,
    "select_rows": select_rows,
    "linear": linear,
    "linear_swiglu": linear_swiglu,
    "swiglu": swiglu,
    "silu_mul": silu_mul,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "norm_add_rms_norm": norm_add_rms_norm,
    "qkv_rope_cache": qkv_rope_cache,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "rope_decode_attention": rope_decode_attention,
    "moe_gate": moe_gate,
    "moe_ffn": moe_ffn,
    "moe_ffn_shared": moe_ffn_shared,
    "shared_expert": shared_expert,
}
