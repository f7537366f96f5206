"""One rule per semantic op for the CPU: scratch is asked for, then one kernel does the rest."""

from __future__ import annotations

from typing import Any

import torch

from glmc.lowering.target import SEQUENCES, Emitter, Op, Value, fixed
from glmc.lowering.values import as_rows, flat, rope_table, view
from glmc_runtime.format.extent import Extent

FLOAT = torch.float32
INDEX = torch.int64
Scratch = dict[str, Any]
"""Temporaries by the kernel's argument names."""
GATHERED_BYTES = 16 << 20
"""Keys, or values, of a layer gathered at most: a bound of memory, gathering is always faster."""


def embedding(op: Op, emit: Emitter) -> None:
    out = emit.result()
    token_ids = flat(op.tensor("token_ids"))
    emit.call(
        "cpu.embedding",
        writes=("out",),
        token_ids=token_ids,
        weight=op.tensor("weight"),
        out=view(out, token_ids.shape[0], out.shape[-1]),
    )


def _linear(emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value) -> None:
    emit.call(
        "cpu.linear", writes=("out",), x=as_rows(x), weight=weight, bias=bias, out=as_rows(out)
    )


def linear(op: Op, emit: Emitter) -> None:
    bias = op.optional_tensor("bias")
    _linear(emit, op.tensor("x"), op.tensor("weight"), bias, emit.result())


def _norm_scratch(emit: Emitter, x: Value) -> Scratch:
    rows, width = as_rows(x).shape
    return {
        "hidden": emit.temporary("hidden", (rows, width), FLOAT),
        "square": emit.temporary("square", (rows, width), FLOAT),
        "variance": emit.temporary("variance", (rows, fixed(1)), FLOAT),
    }


_NORM_WRITES = ("hidden", "square", "variance")


def rms_norm(op: Op, emit: Emitter) -> None:
    x = as_rows(op.tensor("x"))
    emit.call(
        "cpu.rms_norm",
        writes=("out", *_NORM_WRITES),
        x=x,
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result()),
        **_norm_scratch(emit, x),
    )


def add_rms_norm(op: Op, emit: Emitter) -> None:
    x = as_rows(op.tensor("x"))
    emit.call(
        "cpu.add_rms_norm",
        writes=("out", "total", *_NORM_WRITES),
        x=x,
        residual=as_rows(op.tensor("residual")),
        weight=op.tensor("weight"),
        eps=op.number("eps"),
        out=as_rows(emit.result(0)),
        total=as_rows(emit.result(1)),
        **_norm_scratch(emit, x),
    )


def swiglu(op: Op, emit: Emitter) -> None:
    x, out = as_rows(op.tensor("x")), as_rows(emit.result())
    emit.call("cpu.swiglu", writes=("out",), x=x, out=out)


def silu_mul(op: Op, emit: Emitter) -> None:
    emit.call(
        "cpu.silu_mul",
        writes=("out",),
        gate=op.tensor("gate"),
        up=op.tensor("up"),
        out=emit.result(),
    )


def select_rows(op: Op, emit: Emitter) -> None:
    emit.call(
        "cpu.select_rows",
        writes=("out",),
        x=op.tensor("x"),
        rows=op.tensor("rows"),
        out=emit.result(),
    )


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    qkv = as_rows(op.tensor("qkv"))
    q_norm, k_norm = op.optional_tensor("q_norm"), op.optional_tensor("k_norm")
    heads = fixed(op.integer("q_heads") + op.integer("kv_heads"))
    head_dim = fixed(op.integer("head_dim"))
    tokens = qkv.shape[0]
    table = rope_table(op, emit, qkv.dtype)
    rotary_dim = table.dim(1)
    by_head = (tokens, heads, head_dim)
    scratch: Scratch = {
        "table": emit.temporary("table", (tokens, fixed(rotary_dim)), qkv.dtype),
        "product": emit.temporary("product", (tokens, heads, fixed(rotary_dim // 2)), qkv.dtype),
        "turned": emit.temporary("turned", by_head, qkv.dtype),
    }
    if q_norm is not None:
        scratch |= {
            "normed": emit.temporary("normed", by_head, qkv.dtype),
            "hidden": emit.temporary("hidden", by_head, FLOAT),
            "square": emit.temporary("square", by_head, FLOAT),
            "variance": emit.temporary("variance", (tokens, heads, fixed(1)), FLOAT),
        }
    q_heads = fixed(op.integer("q_heads"))
    emit.call(
        "cpu.qkv_rope_cache",
        writes=("query", "key_cache", "value_cache", *scratch),
        qkv=qkv,
        q_norm=q_norm,
        k_norm=k_norm,
        cos_sin=table,
        positions=flat(op.tensor("positions")),
        slot_mapping=flat(op.tensor("slot_mapping")),
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        query=view(emit.result(0), tokens, q_heads, head_dim),
        interleaved=op.flag("interleaved"),
        norm_eps=op.number("norm_eps"),
        **scratch,
    )
    emit.bind(1, op.tensor("k_cache"))
    emit.bind(2, op.tensor("v_cache"))


def prefill_attention(op: Op, emit: Emitter) -> None:
    emit.call(
        "cpu.prefill_attention",
        writes=("out",),
        host=True,
        query=op.tensor("q"),
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        block_tables=op.tensor("block_tables"),
        cu_seqlens_q=emit.input("cu_seqlens_q_host"),
        cu_seqlens_k=emit.input("cu_seqlens_k_host"),
        scale=op.number("scale"),
        out=emit.result(),
    )


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


def decode_attention(op: Op, emit: Emitter) -> None:
    q, tables = op.tensor("q"), op.tensor("block_tables")
    longest = tables.dim(1) * emit.options.block_size
    size = (fixed(q.dim(1) * longest),)
    batch = _batch_scratch(op, emit)
    emit.call(
        "cpu.decode_attention",
        writes=("out", "scores", "floats", "total", *batch),
        host=True,
        query=q,
        key_cache=op.tensor("k_cache"),
        value_cache=op.tensor("v_cache"),
        block_tables=tables,
        context_lengths=emit.input("context_lengths_host"),
        scale=op.number("scale"),
        out=emit.result(),
        scores=emit.temporary("scores", size, q.dtype),
        floats=emit.temporary("floats", size, FLOAT),
        total=emit.temporary("total", (q.shape[1], q.shape[2]), FLOAT),
        **batch,
    )


def _group_scratch(emit: Emitter, tokens: Extent, groups: int, top_groups: int) -> Scratch:
    pairs = (tokens, fixed(groups), fixed(2))
    by_group, chosen = (tokens, fixed(groups)), (tokens, fixed(top_groups))
    return {
        "best_scores": emit.temporary("best_scores", pairs, FLOAT),
        "best_ids": emit.temporary("best_ids", pairs, INDEX),
        "group_scores": emit.temporary("group_scores", by_group, FLOAT),
        "dropped": emit.temporary("dropped", by_group, torch.bool),
        "chosen_scores": emit.temporary("chosen_scores", chosen, FLOAT),
        "chosen_groups": emit.temporary("chosen_groups", chosen, INDEX),
    }


def moe_gate(op: Op, emit: Emitter) -> None:
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
    if groups != top_groups:
        scratch |= _group_scratch(emit, tokens, groups, top_groups)
    emit.call(
        "cpu.moe_gate",
        writes=("weights", "ids", *scratch),
        x=x,
        weight=weight,
        bias=op.tensor("bias"),
        groups=groups,
        top_groups=top_groups,
        group_fill=op.number("group_fill"),
        normalize=op.flag("normalize"),
        normalize_eps=op.number("normalize_eps"),
        scale=op.number("scale"),
        weights=emit.result(0),
        ids=emit.result(1),
        **scratch,
    )


def moe_ffn(op: Op, emit: Emitter) -> None:
    x, ids, down = as_rows(op.tensor("x")), op.tensor("ids"), op.tensor("down")
    tokens, hidden = x.shape
    top_k, width = ids.dim(1), down.dim(2)
    rows = tokens * top_k
    scratch: Scratch = {
        "gathered": emit.temporary("gathered", (rows, hidden), x.dtype),
        "results": emit.temporary("results", (rows, hidden), x.dtype),
        "merged": emit.temporary("merged", (rows, fixed(2 * width)), x.dtype),
        "activated": emit.temporary("activated", (rows, fixed(width)), x.dtype),
        "products": emit.temporary("products", (tokens, fixed(top_k), hidden), FLOAT),
        "total": emit.temporary("total", (tokens, hidden), FLOAT),
        "sorted_ids": emit.temporary("sorted_ids", (rows,), INDEX),
        "order": emit.temporary("order", (rows,), INDEX),
        "rows": emit.temporary("rows", (rows,), INDEX),
    }
    emit.call(
        "cpu.moe_ffn",
        writes=("out", *scratch),
        host=True,
        x=x,
        weights=op.tensor("weights"),
        ids=ids,
        gate_up=op.tensor("gate_up"),
        down=down,
        out=as_rows(emit.result()),
        **scratch,
    )


def shared_expert(op: Op, emit: Emitter) -> None:
    """``routed + linear(swiglu(linear(x)))``, with each step rounded as in eager code."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    routed = as_rows(op.tensor("routed"))
    rows, width = x.shape[0], down.dim(1)
    merged = emit.temporary("merged", (rows, fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (rows, fixed(width)), x.dtype)
    projected = emit.temporary("projected", (rows, x.shape[1]), x.dtype)
    _linear(emit, x, gate_up, None, merged)
    emit.call("cpu.swiglu", writes=("out",), x=merged, out=activated)
    _linear(emit, activated, down, None, projected)
    emit.call("cpu.add", writes=("out",), x=routed, y=projected, out=as_rows(emit.result()))


RULES = {
    "embedding": embedding,
    "linear": linear,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "swiglu": swiglu,
    "silu_mul": silu_mul,
    "select_rows": select_rows,
    "qkv_rope_cache": qkv_rope_cache,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "moe_gate": moe_gate,
    "moe_ffn": moe_ffn,
    "shared_expert": shared_expert,
}
