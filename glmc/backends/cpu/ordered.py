"""The CPU's rules for ``--deterministic``: kernels whose sums have an order of their own.

What only moves numbers, or adds two of them, is left to ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmc.backends.cpu.rules import gate_scratch, rotation_scratch
from glmc.lowering import collectives, ordered_ranks, plain
from glmc.lowering.direct import CACHED, INDEX, Direct, Scratch, experts_order
from glmc.lowering.ordered_sums import whole_product
from glmc.lowering.target import Emitter, Op, Rule, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    qkv = as_rows(op.tensor("qkv"))
    table = rope_table(op, emit, qkv.dtype)
    scratch = rotation_scratch(op, emit, qkv, table.dim(1))
    emit.call(
        "ordered.qkv_rope_cache",
        writes=("query", "key_cache", "value_cache", *scratch),
        qkv=qkv,
        q_norm=op.optional_tensor("q_norm"),
        k_norm=op.optional_tensor("k_norm"),
        cos_sin=table,
        positions=flat(op.tensor("positions")),
        slot_mapping=flat(op.tensor("slot_mapping")),
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        query=view(emit.result(0), qkv.shape[0], op.integer("q_heads"), op.integer("head_dim")),
        interleaved=op.flag("interleaved"),
        norm_eps=op.number("norm_eps"),
        **scratch,
    )
    emit.bind(1, op.tensor("k_cache"))
    emit.bind(2, op.tensor("v_cache"))


def shared_expert(op: Op, emit: Emitter) -> None:
    """``routed + linear(swiglu(linear(x)))``, with each step rounded as in eager code."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    rows, width = x.shape[0], down.dim(1)
    merged = emit.temporary("merged", (rows, fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (rows, fixed(width)), x.dtype)
    projected = emit.temporary("projected", (rows, x.shape[1]), x.dtype)
    whole_product(emit, x, gate_up, None, merged)
    emit.call("ordered.swiglu", writes=("out",), x=merged, out=activated)
    whole_product(emit, activated, down, None, projected)
    routed, out = as_rows(op.tensor("routed")), as_rows(emit.result())
    emit.call("cpu.add", writes=("out",), x=routed, y=projected, out=out)


def _experts_scratch(op: Op, emit: Emitter) -> Scratch:
    x, ids, down = as_rows(op.tensor("x")), op.tensor("ids"), op.tensor("down")
    (tokens, hidden), width = x.shape, down.dim(2)
    rows = tokens * ids.dim(1)
    return {
        "gathered": emit.temporary("gathered", (rows, hidden), x.dtype),
        "results": emit.temporary("results", (rows, hidden), x.dtype),
        "merged": emit.temporary("merged", (rows, fixed(2 * width)), x.dtype),
        "activated": emit.temporary("activated", (rows, fixed(width)), x.dtype),
        **experts_order(emit, rows),
    }


def _local_experts_scratch(op: Op, emit: Emitter) -> Scratch:
    rows = op.tensor("ids").shape[0] * op.tensor("ids").dim(1)
    return _experts_scratch(op, emit) | {"local_ids": emit.temporary("local_ids", (rows,), INDEX)}


_NORMED = ("x", "residual", "out", "total")
RULES: Mapping[str, Rule] = {
    **plain.EXACT,
    **collectives.RULES,
    "embedding": Direct("cpu.embedding", rows=("out",), flat=("token_ids",)),
    "select_rows": Direct("cpu.select_rows"),
    "linear": ordered_ranks.linear,
    "swiglu": Direct("ordered.swiglu", rows=("x", "out")),
    "silu_mul": Direct("ordered.silu_mul"),
    "rms_norm": Direct("ordered.rms_norm", rows=_NORMED),
    "add_rms_norm": Direct("ordered.add_rms_norm", ("out", "total"), _NORMED),
    "qkv_rope_cache": qkv_rope_cache,
    "prefill_attention": Direct(
        "ordered.prefill_attention",
        names=CACHED,
        inputs={"cu_seqlens_q": "cu_seqlens_q_host", "cu_seqlens_k": "cu_seqlens_k_host"},
        host=True,
    ),
    "decode_attention": Direct(
        "ordered.decode_attention",
        names=CACHED,
        inputs={"context_lengths": "context_lengths_host"},
        host=True,
    ),
    "moe_gate": Direct(
        "ordered.moe_gate",
        ("weights", "ids"),
        rows=("x",),
        dropped=("top_k",),
        scratch_first=gate_scratch,
    ),
    "moe_ffn": Direct(
        "ordered.moe_ffn", rows=("x", "out"), scratch_first=_experts_scratch, host=True
    ),
    "local_moe_ffn": Direct(
        "ordered.local_moe_ffn", rows=("x", "out"), scratch_first=_local_experts_scratch, host=True
    ),
    "shared_expert": shared_expert,
}
OF_RANKS: Mapping[str, Rule] = {**RULES, **ordered_ranks.RULES}
