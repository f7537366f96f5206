"""Rules for bits that do not depend on the number of ranks: sums that ranks may share.

Their kernels are on the host, for the targets whose artifacts may name them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from glmc.errors import LoweringError
from glmc.lowering.direct import FLOAT, INDEX, Scratch, experts_order
from glmc.lowering.ordered_sums import Sums, partial_product, sums_of, whole_product
from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, view


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
    emit.call("aten.add", writes=("out",), x=parts, y=segments, out=segments)
    _join(emit, segments, sums, op)


def moe_ffn_of_ranks(op: Op, emit: Emitter) -> None:
    x, ids = as_rows(op.tensor("x")), _of_dtype(emit, op.tensor("ids"), INDEX)
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


def _join(emit: Emitter, segments: Value, sums: Sums, op: Op) -> Value:
    """The result of ``op``, or in float32 where other ranks have the rest of the sum."""
    if sums.partial:
        out = emit.temporary("partial", (segments.shape[0], segments.shape[2]), FLOAT)
        emit.bind(0, view(out, *op.tensor("x").shape[:-1], segments.shape[2]))
    else:
        out = as_rows(emit.result())
    emit.call("ordered.join", writes=("out",), x=segments, out=out)
    return out


def _of_dtype(emit: Emitter, value: Value, dtype: torch.dtype) -> Value:
    """Itself, or a copy: another rule may have left it in a dtype of its own."""
    if value.dtype == dtype:
        return value
    out = emit.temporary(value.name, value.shape, dtype)
    emit.call("aten.copy", writes=("out",), source=value, out=out)
    return out


def _parts_of(routed: Value, emit: Emitter) -> str:
    return f"segments of {emit.stamp(routed)}"


RULES: Mapping[str, Rule] = {
    "linear": linear,
    "moe_ffn": moe_ffn_of_ranks,
    "shared_expert": shared_expert_of_ranks,
}
AS_MADE = frozenset({("all_reduce", "x"), ("shared_expert", "routed")})
"""Sums of a rank's own segments, which are rounded when those of all ranks are in."""
