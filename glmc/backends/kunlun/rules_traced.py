"""Rules of Kunlun for what only traced programs have: heads that lie anywhere are copied together,
normed and rotated in place. Attention over the caller's own cache has no vendor call that takes a
mask; it stays with ATen."""

from __future__ import annotations

from dataclasses import replace

import torch

from glmc.backends.base import Emitter, Op, Value, fixed
from glmc.backends.kunlun import limits
from glmc.backends.kunlun.emit import vendor
from glmc.backends.kunlun.rules_dense import norm
from glmc.backends.values import flat, product, rope_table, view
from glmc_runtime.plan import ListArgument, ValueArgument


def rope(op: Op, emit: Emitter) -> None:
    out = emit.result()
    emit.call("aten.copy", writes=("out",), source=op.tensor("x"), out=out)
    _rotate(op, emit, out)


def norm_rope(op: Op, emit: Emitter) -> None:
    x, out = op.tensor("x"), emit.result()
    raw = emit.temporary("raw", x.shape, x.dtype)
    emit.call("aten.copy", writes=("out",), source=x, out=raw)
    norm(emit, raw, op.tensor("weight"), out, op.number("eps"))
    _rotate(op, emit, out)


def _rotate(op: Op, emit: Emitter, heads: Value) -> None:
    """In place. The vendor rotates queries and keys in one call: one key head stands in."""
    width = heads.shape[-1].constant
    rows = product(heads.shape[:2])
    table_op = replace(op, arguments={**op.arguments, "rope_scaling": op.number("scaling")})
    table = rope_table(table_op, emit, heads.dtype)
    limits.check_rotary(table.dim(1), width, op.node)
    positions = op.tensor("positions")
    limits.check_index_dtype(positions.dtype, torch.int64, "positions", op.node)
    key = emit.temporary("no_key", (rows, fixed(width)), heads.dtype)
    emit.call("aten.zero", writes=("out",), out=key)
    vendor(
        emit,
        "rotary_embedding",
        positions=_of_all_rows(positions, heads, emit),
        query=view(heads, rows, product(heads.shape[2:])),
        key=key,
        head_size=width,
        cos_sin_cache=table,
        is_neox=not op.flag("interleaved"),
    )


def _of_all_rows(positions: Value, heads: Value, emit: Emitter) -> Value:
    """One position per row of the heads; a batch may share one row of positions."""
    if positions.shape == heads.shape[:2]:
        return flat(positions)
    spread = emit.temporary("positions", heads.shape[:2], positions.dtype)
    emit.call(
        "aten.any_in_place",
        writes=("target",),
        op="aten.copy_.default",
        target=spread,
        operands=ListArgument((positions.argument,)),
        keyword_names=ValueArgument([]),
        keyword_values=ListArgument(()),
    )
    return flat(spread)


RULES = {"rope": rope, "norm_rope": norm_rope}
