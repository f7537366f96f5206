"""One rule per semantic op for the CPU: scratch is asked for, then one kernel does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from glmc.lowering.direct import (
    FLOAT,
    INDEX,
    Direct,
    Scratch,
    dense,
    experts_order,
    experts_rows,
    paged,
)
from glmc.lowering.target import SEQUENCES, Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view

ScratchOf = Callable[[Op, Emitter], Scratch]
Linear = Callable[[Emitter, Value, Value, Value | None, Value], None]
"""Emits ``out = x @ weight.T (+ bias)`` of x, weight, bias and out."""
GATHERED_BYTES = 16 << 20
"""Keys, or values, of a layer gathered at most: a bound of memory, gathering is always faster."""


def _linear(emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value) -> None:
    emit.call(
        "cpu.linear", writes=("out",), x=as_rows(x), weight=weight, bias=bias, out=as_rows(out)
    )


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    rotated("cpu", op, emit, _head_norm_scratch)


def rotated(family: str, op: Op, emit: Emitter, more: ScratchOf | None = None) -> None:
    """``family.qkv_rope_cache`` with its scratch, and ``more`` where heads are normed."""
    qkv = as_rows(op.tensor("qkv"))
    table = rope_table(op, emit, qkv.dtype)
    scratch = rotation_scratch(op, emit, qkv, table.dim(1))
    normed = op.optional_tensor("q_norm") is not None
    if normed and more is not None:
        scratch |= more(op, emit)
    emit.call(
        f"{family}.qkv_rope_cache",
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


def _head_norm_scratch(op: Op, emit: Emitter) -> Scratch:
    heads = fixed(op.integer("q_heads") + op.integer("kv_heads"))
    tokens, head_dim = as_rows(op.tensor("qkv")).shape[0], fixed(op.integer("head_dim"))
    return {
        "hidden": emit.temporary("hidden", (tokens, heads, head_dim), FLOAT),
        "square": emit.temporary("square", (tokens, heads, head_dim), FLOAT),
        "variance": emit.temporary("variance", (tokens, heads, fixed(1)), FLOAT),
    }


def rotation_scratch(op: Op, emit: Emitter, qkv: Value, rotary_dim: int) -> Scratch:
    """Scratch of split and rotation, and what heads are normed into."""
    heads = fixed(op.integer("q_heads") + op.integer("kv_heads"))
    tokens, half = qkv.shape[0], fixed(rotary_dim // 2)
    by_head = (tokens, heads, fixed(op.integer("head_dim")))
    scratch: Scratch = {
        "table": emit.temporary("table", (tokens, fixed(rotary_dim)), qkv.dtype),
        "product": emit.temporary("product", (tokens, heads, half), qkv.dtype),
        "turned": emit.temporary("turned", by_head, qkv.dtype),
    }
    if op.optional_tensor("q_norm") is not None:
        scratch["normed"] = emit.temporary("normed", by_head, qkv.dtype)
    return scratch


def shared_expert(op: Op, emit: Emitter) -> None:
    shared_by("cpu", _linear, op, emit)


def shared_by(family: str, linear: Linear, op: Op, emit: Emitter) -> None:
    """``routed + linear(swiglu(linear(x)))``, with each step rounded as in eager code."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    routed = as_rows(op.tensor("routed"))
    rows, width = x.shape[0], down.dim(1)
    merged = emit.temporary("merged", (rows, fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (rows, fixed(width)), x.dtype)
    projected = emit.temporary("projected", (rows, x.shape[1]), x.dtype)
    linear(emit, x, gate_up, None, merged)
    emit.call(f"{family}.swiglu", writes=("out",), x=merged, out=activated)
    linear(emit, activated, down, None, projected)
    emit.call("cpu.add", writes=("out",), x=routed, y=projected, out=as_rows(emit.result()))


def _norm_scratch(op: Op, emit: Emitter) -> Scratch:
    rows, width = as_rows(op.tensor("x")).shape
    return {
        "hidden": emit.temporary("hidden", (rows, width), FLOAT),
        "square": emit.temporary("square", (rows, width), FLOAT),
        "variance": emit.temporary("variance", (rows, fixed(1)), FLOAT),
    }


def all_reduce_add_rms_norm(op: Op, emit: Emitter) -> None:
    """The sum over the ranks in place, in a copy where a rank's own summand is read later."""
    x, scratch = emit.mutable(op.tensor("x")), _norm_scratch(op, emit)
    emit.call(
        "collective.all_reduce_add_rms_norm",
        writes=("x", "out", "total", *scratch),
        x=as_rows(x),
        residual=as_rows(op.tensor("residual")),
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result(0)),
        total=as_rows(emit.result(1)),
        **scratch,
    )


def _decode_scratch(op: Op, emit: Emitter) -> Scratch:
    q, tables = op.tensor("q"), op.tensor("block_tables")
    longest = tables.dim(1) * emit.options.block_size
    size = (fixed(q.dim(1) * longest),)
    return {
        "scores": emit.temporary("scores", size, q.dtype),
        "floats": emit.temporary("floats", size, FLOAT),
        "total": emit.temporary("total", (q.shape[1], q.shape[2]), FLOAT),
    }


def _batch_scratch(op: Op, emit: Emitter) -> Scratch:
    """Room to gather the contexts of all sequences while keys and values of a layer stay within
    ``GATHERED_BYTES`` each; none where not even a block of each would."""
    q, cache, block = op.tensor("q"), op.tensor("k_cache"), emit.options.block_size
    # The graph's cache and the target's have their dimensions in different orders.
    width = cache.dim(1) * cache.dim(2) * cache.dim(3) // block
    token = width * q.dtype.itemsize
    blocks = GATHERED_BYTES // (token * block * emit.options.max_sequences)
    most = min(blocks, op.tensor("block_tables").dim(1)) * block
    if not most:
        return {}
    context = (SEQUENCES * (width * most),)
    scores = (SEQUENCES * (q.dim(1) * most),)
    return {
        "batch_context": emit.temporary("batch_context", context, q.dtype),
        "batch_scores": emit.temporary("batch_scores", scores, q.dtype),
        "batch_floats": emit.temporary("batch_floats", scores, FLOAT),
    }


def gate_scratch(op: Op, emit: Emitter) -> Scratch:
    x, weight = as_rows(op.tensor("x")), op.tensor("weight")
    groups, top_groups = op.integer("groups"), op.integer("top_groups")
    tokens, experts, top_k = x.shape[0], weight.shape[0], fixed(op.integer("top_k"))
    scratch: Scratch = {
        "x_float": emit.temporary("x_float", x.shape, FLOAT),
        "logits": emit.temporary("logits", (tokens, experts), FLOAT),
        "choice": emit.temporary("choice", (tokens, experts), FLOAT),
        "chosen_values": emit.temporary("chosen_values", (tokens, top_k), FLOAT),
        "sums": emit.temporary("sums", (tokens, fixed(1)), FLOAT),
    }
    if groups == top_groups:
        return scratch
    pairs = (tokens, fixed(groups), fixed(2))
    by_group, best = (tokens, fixed(groups)), (tokens, fixed(top_groups))
    return scratch | {
        "best_scores": emit.temporary("best_scores", pairs, FLOAT),
        "best_ids": emit.temporary("best_ids", pairs, INDEX),
        "group_scores": emit.temporary("group_scores", by_group, FLOAT),
        "dropped": emit.temporary("dropped", by_group, torch.bool),
        "chosen_scores": emit.temporary("chosen_scores", best, FLOAT),
        "chosen_groups": emit.temporary("chosen_groups", best, INDEX),
    }


def _experts_scratch(op: Op, emit: Emitter) -> Scratch:
    (tokens, hidden), top_k = as_rows(op.tensor("x")).shape, op.tensor("ids").dim(1)
    return {
        **experts_rows(op, emit),
        "products": emit.temporary("products", (tokens, fixed(top_k), hidden), FLOAT),
        "total": emit.temporary("total", (tokens, hidden), FLOAT),
        **experts_order(emit, tokens * top_k),
    }


def _local_experts_scratch(op: Op, emit: Emitter) -> Scratch:
    tokens, hidden = as_rows(op.tensor("x")).shape
    rows = tokens * op.tensor("ids").dim(1)
    return {
        **experts_rows(op, emit),
        "products": emit.temporary("products", (rows, hidden), FLOAT),
        "scales": emit.temporary("scales", (rows,), FLOAT),
        "total": emit.temporary("total", (tokens, hidden), FLOAT),
        "local_ids": emit.temporary("local_ids", (rows,), INDEX),
        **experts_order(emit, rows),
    }


_NORMED = ("x", "residual", "out", "total")

RULES: Mapping[str, Rule] = {
    **dense("cpu"),
    "embedding": Direct("cpu.embedding", rows=("out",), flat=("token_ids",)),
    "select_rows": Direct("cpu.select_rows"),
    "rms_norm": Direct("cpu.rms_norm", rows=_NORMED, scratch=_norm_scratch),
    "add_rms_norm": Direct("cpu.add_rms_norm", ("out", "total"), _NORMED, scratch=_norm_scratch),
    "all_reduce_add_rms_norm": all_reduce_add_rms_norm,
    "qkv_rope_cache": qkv_rope_cache,
    **paged("cpu", scratch_first=_batch_scratch, scratch=_decode_scratch),
    "moe_gate": Direct(
        "cpu.moe_gate",
        ("weights", "ids"),
        rows=("x",),
        dropped=("top_k",),
        scratch_first=gate_scratch,
    ),
    "moe_ffn": Direct("cpu.moe_ffn", rows=("x", "out"), scratch_first=_experts_scratch, host=True),
    "local_moe_ffn": Direct(
        "cpu.local_moe_ffn", rows=("x", "out"), scratch_first=_local_experts_scratch, host=True
    ),
    "shared_expert": shared_expert,
}
