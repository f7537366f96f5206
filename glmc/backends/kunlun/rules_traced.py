"""Rules of Kunlun for what only traced programs have: heads of any strides are made contiguous,
normed and rotated in place. Attention over the caller's own cache has no vendor call that takes a
mask; it stays with ATen.

A graph does not say how far its positions go, and the vendor's rotation reads its table wherever
a position points to. So the table has one row for each position of the step, in their order, and
the vendor is given the numbers of the rows."""

from __future__ import annotations

import torch

from glmc.backends.kunlun import limits
from glmc.backends.kunlun.emit import cast, vendor, zeroed
from glmc.backends.kunlun.rules_dense import norm
from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc.lowering.values import flat, product, view
from glmc_runtime.format.plan import Argument, ListArgument, ValueArgument


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
    limits.check_rotary(2 * op.tensor("inverse_frequencies").dim(0), width, op.node)
    table = _table(op, emit, heads.dtype)
    key = emit.temporary("no_key", (rows, fixed(width)), heads.dtype)
    emit.call("aten.zero", writes=("out",), out=key)
    vendor(
        emit,
        "rotary_embedding",
        positions=_of_all_rows(_row_numbers(op.tensor("positions"), emit), heads, emit),
        query=view(heads, rows, product(heads.shape[2:])),
        key=key,
        head_size=width,
        cos_sin_cache=table,
        is_neox=not op.flag("interleaved"),
    )


def _table(op: Op, emit: Emitter, dtype: torch.dtype) -> Value:
    """[positions of the step, rotary_dim]: cos, then sin, made once for all layers that read them.
    Rounded as in eager code: in float32, cast at the end."""
    positions, scaling = flat(op.tensor("positions")), op.number("scaling")
    frequencies = op.tensor("inverse_frequencies")
    key = f"rope {emit.stamp(positions)} {emit.stamp(frequencies)} {scaling} {dtype}"
    known = emit.notes.get(key)
    if known is not None:
        return known
    frequencies = flat(cast(emit, frequencies, torch.float32))
    (rows,), half = positions.shape, frequencies.shape[0]
    at = cast(emit, positions, torch.float32)
    parts = {}
    for index, wave in enumerate(("aten.cos_.default", "aten.sin_.default")):
        part = parts[f"part_{index}"] = emit.temporary("waves", (rows, half), torch.float32)
        emit.call("aten.mul", writes=("out",), x=view(at, rows, 1), y=frequencies, out=part)
        _in_place(emit, wave, part)
        if scaling != 1.0:
            emit.call("aten.mul", writes=("out",), x=part, y=scaling, out=part)
    table = emit.temporary("rope_table", (rows, half * 2), torch.float32)
    emit.call("aten.concat_columns", writes=("out",), host=False, **parts, out=table)
    emit.notes[key] = cast(emit, table, dtype)
    return emit.notes[key]


def _row_numbers(positions: Value, emit: Emitter) -> Value:
    """0, 1, 2, ... in the shape of the positions; made once for all steps of that many."""
    key = f"row numbers {positions.shape}"
    if key not in emit.notes:
        numbers = zeroed(emit, "row_numbers", positions.shape, torch.int64)
        emit.call("aten.add", writes=("out",), x=numbers, y=1, out=numbers)
        _in_place(emit, "aten.cumsum_.default", flat(numbers), 0)
        emit.call("aten.add", writes=("out",), x=numbers, y=-1, out=numbers)
        emit.notes[key] = numbers
    return emit.notes[key]


def _of_all_rows(numbers: Value, heads: Value, emit: Emitter) -> Value:
    """One row of the table per row of the heads; a batch may share one row of positions."""
    if numbers.shape == heads.shape[:2]:
        return flat(numbers)
    spread = emit.temporary("rows", heads.shape[:2], numbers.dtype)
    _in_place(emit, "aten.copy_.default", spread, numbers.argument)
    return flat(spread)


def _in_place(emit: Emitter, op: str, target: Value, *operands: Argument | int) -> None:
    given = (ValueArgument(item) if isinstance(item, int) else item for item in operands)
    emit.call(
        "aten.any_in_place",
        writes=("target",),
        op=op,
        target=target,
        operands=ListArgument(tuple(given)),
        keyword_names=ValueArgument([]),
        keyword_values=ListArgument(()),
    )


RULES = {"rope": rope, "norm_rope": norm_rope}
