"""Rules of the CPU for what only traced programs have: heads and caches that lie anywhere."""

from __future__ import annotations

import torch

from glmc.backends.base import Emitter, Op, Value, fixed
from glmc.backends.cpu_rules import FLOAT, Scratch
from glmc.backends.values import flat


def _table(op: Op, emit: Emitter, dtype: torch.dtype) -> Value:
    """cos and sin of the step's positions, made once for all layers that read them."""
    positions, frequencies = op.tensor("positions"), op.tensor("inverse_frequencies")
    scaling = op.number("scaling")
    key = f"rope {positions.argument} {frequencies.name} {scaling} {dtype}"
    known = emit.notes.get(key)
    if known is not None:
        return known
    if frequencies.dtype != FLOAT:  # of a model that was cast whole: angles are in float32
        wide = emit.temporary("frequencies", frequencies.shape, FLOAT)
        emit.call("aten.copy", writes=("out",), source=frequencies, out=wide)
        frequencies = wide
    rows = flat(positions)
    half = frequencies.dim(0)
    by_pair = (rows.shape[0], fixed(half))
    table = emit.temporary("rope_table", (rows.shape[0], fixed(2 * half)), dtype)
    emit.call(
        "cpu.rope_table",
        writes=("out", "angles", "waves"),
        positions=rows,
        frequencies=frequencies,
        scaling=scaling,
        angles=emit.temporary("angles", by_pair, FLOAT),
        waves=emit.temporary("waves", by_pair, FLOAT),
        out=table,
    )
    emit.notes[key] = table
    return table


def _rope(op: Op, emit: Emitter, scratch: Scratch, norm: Scratch) -> None:
    x = op.tensor("x")
    table = _table(op, emit, x.dtype)
    pairs = (*x.shape[:-1], fixed(table.dim(1) // 2))
    product = emit.temporary("product", pairs, x.dtype)
    emit.call(
        "cpu.rope",
        writes=("out", "product", *scratch),
        x=x,
        table=table,
        product=product,
        interleaved=op.flag("interleaved"),
        out=emit.result(),
        **norm,
        **scratch,
    )


def rope(op: Op, emit: Emitter) -> None:
    _rope(op, emit, {}, {})


def norm_rope(op: Op, emit: Emitter) -> None:
    x = op.tensor("x")
    scratch: Scratch = {
        "normed": emit.temporary("normed", x.shape, x.dtype),
        "hidden": emit.temporary("hidden", x.shape, FLOAT),
        "square": emit.temporary("square", x.shape, FLOAT),
        "variance": emit.temporary("variance", (*x.shape[:-1], fixed(1)), FLOAT),
    }
    _rope(op, emit, scratch, {"weight": op.tensor("weight"), "eps": op.number("eps")})


def masked_attention(op: Op, emit: Emitter) -> None:
    q, mask = op.tensor("q"), op.optional_tensor("mask")
    if mask is not None and mask.dtype == torch.bool:
        mask = _added(mask, q.dtype, emit)
    keys = op.tensor("k")
    scratch: Scratch = {}
    if q.shape[1] == fixed(1):
        size = (q.shape[0] * q.dim(2), keys.shape[2])
        scratch = {
            "scores": emit.temporary("scores", size, q.dtype),
            "floats": emit.temporary("floats", size, FLOAT),
        }
    emit.call(
        "cpu.masked_attention",
        writes=("out", *scratch),
        query=q,
        keys=keys,
        values=op.tensor("v"),
        mask=mask,
        scale=op.number("scale"),
        causal=op.flag("causal"),
        out=emit.result(),
        **scratch,
    )


def _added(mask: Value, dtype: torch.dtype, emit: Emitter) -> Value:
    """What is added to the scores for a mask of what is seen, made once for all layers."""
    key = f"mask {mask.argument} {dtype}"
    known = emit.notes.get(key)
    if known is None:
        known = emit.temporary("mask", mask.shape, dtype)
        emit.call("cpu.additive_mask", writes=("out",), mask=mask, out=known)
        emit.notes[key] = known
    return known


RULES = {"rope": rope, "norm_rope": norm_rope, "masked_attention": masked_attention}
