"""ATen ops that no fusion took, as single torch calls: the same rules for every target.

They are what keeps a compile with ``--allow-missing`` correct; each is a launch and a pass over
memory that the fused kernel would have saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from glmc.errors import LoweringError
from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, view


def _passed(function: str, **names: str) -> Rule:
    """One call; ``names`` are the op's arguments by the kernel's names. x is a tensor, any other a
    tensor or a number."""

    def rule(op: Op, emit: Emitter) -> None:
        arguments: dict[str, Any] = {}
        for name, own in names.items():
            is_tensor = own == "x" or isinstance(op.arguments[own], Value)
            arguments[name] = op.tensor(own) if is_tensor else op.number(own)
        emit.call(function, writes=("out",), **arguments, out=emit.result())

    return rule


def power(op: Op, emit: Emitter) -> None:
    exponent = op.number("exponent")
    emit.call("aten.pow", writes=("out",), x=op.tensor("x"), exponent=exponent, out=emit.result())


def mean(op: Op, emit: Emitter) -> None:
    """Of each row, which stays as a column."""
    x, axes = op.tensor("x"), op.arguments["axes"]
    last = isinstance(axes, list) and axes in ([-1], [len(x.shape) - 1])
    if not last or not op.arguments.get("keep"):
        raise LoweringError(
            "only a mean over the last dimension, which is kept, has a kernel",
            place=op.node,
            expected="mean(x, [-1], True)",
            found=f"mean(x, {axes}, {op.arguments.get('keep')})",
        )
    emit.call("aten.mean_columns", writes=("out",), x=as_rows(x), out=as_rows(emit.result()))


def columns(op: Op, emit: Emitter) -> None:
    """Neighbouring columns, copied: a plan has no non-contiguous view."""
    x, axis = op.tensor("x"), op.integer("axis")
    if axis not in (-1, len(x.shape) - 1):
        raise LoweringError(
            "only a slice of columns has a kernel",
            place=op.node,
            expected=f"axis {len(x.shape) - 1}",
            found=f"axis {axis}",
        )
    start, stop, _ = slice(op.integer("start"), op.integer("stop")).indices(x.dim(-1))
    out = emit.result()
    if out.shape[-1] != fixed(stop - start):
        raise LoweringError(
            "the slice has other columns than its bounds say",
            place=op.node,
            expected=str(stop - start),
            found=str(out.shape[-1]),
        )
    emit.call(
        "aten.slice_columns",
        writes=("out",),
        x=as_rows(x),
        start=start,
        stop=stop,
        out=as_rows(out),
    )


def join_qkv(op: Op, emit: Emitter) -> None:
    """Queries, keys and values that are not in one projection, put side by side."""
    q, k, v = (op.tensor(name) for name in ("q", "k", "v"))
    parts: dict[str, Value] = {}
    for index, part in enumerate((q, k, v)):
        tokens, heads, head_dim = part.shape
        parts[f"part_{index}"] = view(part, tokens, heads * head_dim.constant)
    emit.remark("q, k and v are not in one projection: they are copied side by side")
    emit.call(
        "aten.concat_columns", writes=("out",), host=False, **parts, out=as_rows(emit.result())
    )


EXACT: Mapping[str, Rule] = MappingProxyType(
    {
        "aten._to_copy": _passed("aten.copy", source="x"),
        "aten.add": _passed("aten.add", x="x", y="y"),
        "aten.mul": _passed("aten.mul", x="x", y="y"),
        "aten.slice": columns,
        "join_qkv": join_qkv,
    }
)
"""Those whose numbers follow from an element alone, whatever its place."""
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **EXACT,
        "aten.silu": _passed("aten.silu", x="x"),
        "aten.rsqrt": _passed("aten.rsqrt", x="x"),
        "aten.pow": power,
        "aten.mean": mean,
    }
)
