"""One rule per semantic op for CUDA: one launch each, or two where a sum must be split.

Scratch that depends on how a kernel is tuned is the kernel's own (``kernels/cuda/workspace.py``);
what a plan can size is in the arena.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmc.lowering.direct import CACHED, FLOAT, Direct, Scratch, dense
from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view


def embedding(op: Op, emit: Emitter) -> None:
    out = emit.result()
    ids = flat(op.tensor("token_ids"))
    # A session has checked its ids. Those of a traced program nobody has, and torch refuses wrong
    # ones where ours gives NaN.
    emit.call(
        "cuda.embedding" if op.assumes.step_inputs else "aten.embedding",
        writes=("out",),
        ids=ids,
        weight=op.tensor("weight"),
        out=view(out, ids.shape[0], out.shape[-1]),
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


def shared_expert(op: Op, emit: Emitter) -> None:
    """Where it could not join the routed experts: ``routed + linear(linear_swiglu(x))``."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    activated = emit.temporary("activated", (x.shape[0], down.shape[1]), x.dtype)
    projected = emit.temporary("projected", x.shape, x.dtype)
    merged = emit.temporary("merged", (x.shape[0], gate_up.shape[0]), x.dtype)
    emit.call(
        "cuda.linear_swiglu",
        writes=("out", "merged"),
        x=x,
        weight=gate_up,
        out=activated,
        merged=merged,
    )
    emit.call("cuda.linear", writes=("out",), x=activated, weight=down, bias=None, out=projected)
    emit.call(
        "aten.add",
        writes=("out",),
        x=as_rows(op.tensor("routed")),
        y=projected,
        out=as_rows(emit.result()),
    )


def _logits(op: Op, emit: Emitter) -> Scratch:
    size = (as_rows(op.tensor("x")).shape[0], op.tensor("weight").shape[0])
    return {"logits": emit.temporary("logits", size, FLOAT)}


def _merged(op: Op, emit: Emitter) -> Scratch:
    x = as_rows(op.tensor("x"))
    size = (x.shape[0], op.tensor("weight").shape[0])
    return {"merged": emit.temporary("merged", size, x.dtype)}


def _local_ids(op: Op, emit: Emitter) -> Scratch:
    ids = op.tensor("ids")
    return {"local_ids": emit.temporary("local_ids", ids.shape, ids.dtype)}


_NORMED = ("x", "residual", "out", "total")

RULES: Mapping[str, Rule] = {
    **dense("cuda"),
    "embedding": embedding,
    "select_rows": Direct("aten.index_select"),
    "linear_swiglu": Direct("cuda.linear_swiglu", rows=("x", "out"), scratch=_merged),
    "rms_norm": Direct("cuda.rms_norm", rows=_NORMED),
    "add_rms_norm": Direct("cuda.add_rms_norm", ("out", "total"), _NORMED),
    "norm_add_rms_norm": Direct("cuda.norm_add_rms_norm", ("out", "total"), _NORMED),
    "qkv_rope_cache": qkv_rope_cache,
    "prefill_attention": Direct(
        "cuda.prefill_attention",
        names=CACHED,
        inputs={
            "cu_seqlens_q_host": "cu_seqlens_q_host",
            "cu_seqlens_k_host": "cu_seqlens_k_host",
        },
        host=True,
    ),
    "decode_attention": Direct("cuda.decode_attention", names=CACHED),
    "rope_decode_attention": rope_decode_attention,
    "moe_gate": Direct(
        "cuda.moe_gate", ("weights", "ids"), rows=("x",), dropped=("top_k",), scratch_first=_logits
    ),
    "moe_ffn": Direct(
        "cuda.moe_ffn",
        rows=("x", "out"),
        constants={"shared_gate_up": None, "shared_down": None},
    ),
    "local_moe_ffn": Direct("cuda.local_moe_ffn", rows=("x", "out"), scratch_first=_local_ids),
    "moe_ffn_shared": Direct("cuda.moe_ffn", rows=("x", "out")),
    "shared_expert": shared_expert,
}
