"""The CPU's rules for ``--deterministic``: kernels whose sums have an order of their own.

What only moves numbers, or adds two of them, is left to ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmc.backends.cpu.rules import experts_order, gate_scratch, rotation_scratch
from glmc.errors import LoweringError
from glmc.lowering import collectives, plain
from glmc.lowering.direct import CACHED, FLOAT, INDEX, Direct, Scratch
from glmc.lowering.ordered_sums import Sums, partial_product, sums_of, whole_product
from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view


def linear(op: Op, emit: Emitter) -> None:
    """A rank's part of a sum stays in float32: what comes after is the sum over the ranks."""
    weight, bias = op.tensor("weight"), op.optional_tensor("bias")
    sums = sums_of(emit, weight)
    if not sums.partial:
        whole_product(emit, op.tensor("x"), weight, bias, emit.result())
        return
    if bias is not None:
        raise LoweringError(
            "a bias beside a sum over the ranks would be added in the middle of it",
            place=op.node,
            expected="no bias, as o_proj and down_proj of GLM",
            found=bias.name,
            remedy="use --deterministic without =ranks",
        )
    out = op.tensor("x").shape[:-1]
    total = emit.temporary("partial", (*out, weight.shape[0]), FLOAT)
    partial_product(emit, op.tensor("x"), weight, total)
    emit.bind(0, total)


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


def shared_expert_of_ranks(op: Op, emit: Emitter) -> None:
    """Segments of the routed and of the shared experts are added one by one, then joined: each
    rank's part of the tree holds both."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    routed = op.tensor("routed")
    parts = emit.notes.get(_parts_of(routed, emit))
    sums = sums_of(emit, down)
    if parts is None or parts.dim(1) != sums.segments:
        raise LoweringError(
            "the routed experts left no segments that the shared expert's can be added to",
            place=op.node,
            expected=f"{sums.segments} segments from moe_ffn",
            found="none" if parts is None else str(parts.dim(1)),
            remedy="use --deterministic without =ranks",
        )
    rows, width, hidden = x.shape[0], down.dim(1), down.shape[0]
    merged = emit.temporary("merged", (rows, fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (rows, fixed(width)), x.dtype)
    segments = emit.temporary("segments", (rows, fixed(sums.segments), hidden), FLOAT)
    whole_product(emit, x, gate_up, None, merged)
    emit.call("ordered.swiglu", writes=("out",), x=merged, out=activated)
    emit.call(
        "ordered.apart",
        writes=("out",),
        x=activated,
        weight=down,
        out=segments,
        segments=sums.segments,
        length=sums.length,
    )
    emit.call("cpu.add", writes=("out",), x=parts, y=segments, out=segments)
    _join(emit, segments, sums, op)


def _join(emit: Emitter, segments: Value, sums: Sums, op: Op) -> Value:
    """The result of ``op``, or in float32 where other ranks have the rest of the sum."""
    if sums.partial:
        out = emit.temporary("partial", (segments.shape[0], segments.shape[2]), FLOAT)
        emit.bind(0, view(out, *op.tensor("x").shape[:-1], segments.shape[2]))
    else:
        out = as_rows(emit.result())
    emit.call("ordered.join", writes=("out",), x=segments, out=out)
    return out


def moe_ffn_of_ranks(op: Op, emit: Emitter) -> None:
    x, ids = as_rows(op.tensor("x")), op.tensor("ids")
    gate_up, down = op.tensor("gate_up"), op.tensor("down")
    (tokens, hidden), width = x.shape, down.dim(2)
    rows = tokens * ids.dim(1)
    inner, sums = sums_of(emit, gate_up), sums_of(emit, down)
    segments = emit.temporary("segments", (tokens, fixed(sums.segments), hidden), FLOAT)
    scratch: Scratch = {
        "gathered": emit.temporary("gathered", (rows, hidden), x.dtype),
        "merged": emit.temporary("merged", (rows, fixed(2 * width)), x.dtype),
        "activated": emit.temporary("activated", (rows, fixed(width)), x.dtype),
        "scales": emit.temporary("scales", (rows,), FLOAT),
        **experts_order(emit, rows),
    }
    emit.call(
        "ordered.moe_ffn_apart",
        writes=("out", *scratch),
        host=True,
        x=x,
        weights=op.tensor("weights"),
        ids=ids,
        gate_up=gate_up,
        down=down,
        out=segments,
        **scratch,
        inner_segments=inner.segments,
        inner_length=inner.length,
        segments=sums.segments,
        length=sums.length,
    )
    out = _join(emit, segments, sums, op)
    emit.notes[_parts_of(out, emit)] = segments


def _parts_of(routed: Value, emit: Emitter) -> str:
    return f"segments of {emit.stamp(routed)}"


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
    "linear": linear,
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
OF_RANKS: Mapping[str, Rule] = {
    **RULES,
    "moe_ffn": moe_ffn_of_ranks,
    "shared_expert": shared_expert_of_ranks,
}
AS_MADE = frozenset({("all_reduce", "x"), ("shared_expert", "routed")})
"""Sums of a rank's own segments, which are rounded when those of all ranks are in."""
