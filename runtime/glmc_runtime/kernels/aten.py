"""Helpers common to all targets, each one torch call with an ``out`` variant.

All tensors are contiguous. Nothing here allocates when the thunk runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.schema import (
    ANY_DTYPE,
    INDICES,
    integer,
    integers,
    number,
    schema,
    tensor,
    written,
)
from glmc_runtime.kernels.shared_schemas import LINEAR

# Either may broadcast; the second may be a number. What is written may be what is read.
_TWO = schema(
    tensor("x", "...x"),
    tensor("y", "...y", or_number=True),
    written("out", "...out"),
    broadcast=("x", "y", "out"),
    aliases=(("out", "x"), ("out", "y")),
)


@register(
    "aten.copy",
    schema(
        tensor("source", "...source", *ANY_DTYPE),
        written("out", "...out", *ANY_DTYPE, source="source"),
        relations=("source.size == out.size",),
    ),
)
def copy(arguments: dict[str, Any]) -> Thunk:
    """``out[...] = source``; casts when the dtypes differ."""
    source, out = arguments["source"], arguments["out"]
    _require_size("out", out, source.numel())
    return partial(out.copy_, source.view(out.shape))


@register(
    "aten.local_embedding",
    schema(
        tensor("ids", "tokens", "int64"),
        tensor("weight", "rows hidden"),
        tensor("first", "1", "int64"),
        written("rows", "tokens", "int64"),
        written("elsewhere", "tokens", "bool"),
        written("beyond", "tokens", "bool"),
        written("out", "tokens hidden", like="weight"),
    ),
)
def local_embedding(arguments: dict[str, Any]) -> Thunk:
    """``out[i] = weight[ids[i] - first]``, or zeros where ``weight`` has no such row."""
    ids, weight, first = arguments["ids"], arguments["weight"], arguments["first"]
    rows, out = arguments["rows"], arguments["out"]
    elsewhere, beyond = arguments["elsewhere"], arguments["beyond"]
    last = weight.shape[0] - 1
    hidden = elsewhere.unsqueeze(1)

    def run() -> None:
        torch.sub(ids, first, out=rows)
        torch.lt(rows, 0, out=elsewhere)
        torch.gt(rows, last, out=beyond)
        elsewhere.logical_or_(beyond)
        rows.clamp_(0, last)
        torch.index_select(weight, 0, rows, out=out)
        out.masked_fill_(hidden, 0)

    return run


@register(
    "aten.local_experts",
    schema(
        tensor("ids", "tokens top_k", *INDICES),
        tensor("weights", "tokens top_k", "float32"),
        tensor("first", "1", "int64"),
        integer("experts", 1),
        written("places", "tokens top_k", like="ids"),
        written("foreign", "tokens top_k", "bool"),
        written("beyond", "tokens top_k", "bool"),
        written("local", "tokens top_k", "int32", below="experts", negative=True),
        written("scores", "tokens top_k", "float32"),
    ),
)
def local_experts(arguments: dict[str, Any]) -> Thunk:
    """``local`` is ``ids - first``, or -1 for those outside of the ``experts`` that are here;
    ``scores`` are the weights, zero there."""
    ids, weights, first = arguments["ids"], arguments["weights"], arguments["first"]
    places, foreign, beyond = (arguments[name] for name in ("places", "foreign", "beyond"))
    local, scores = arguments["local"], arguments["scores"]
    experts = int(arguments["experts"])

    def run() -> None:
        torch.sub(ids, first, out=places)
        torch.lt(places, 0, out=foreign)
        torch.ge(places, experts, out=beyond)
        foreign.logical_or_(beyond)
        places.masked_fill_(foreign, -1)
        local.copy_(places)
        scores.copy_(weights)
        scores.masked_fill_(foreign, 0)

    return run


@register(
    "aten.zero",
    schema(written("out", "...", *ANY_DTYPE, leaves="zeros", below="1")),
)
def zero(arguments: dict[str, Any]) -> Thunk:
    """``out[...] = 0``."""
    out: torch.Tensor = arguments["out"]
    return out.zero_


@register(
    "aten.add",
    _TWO,
)
def add(arguments: dict[str, Any]) -> Thunk:
    """``out = x + y``; y may be a number, and either may broadcast."""
    return _of_two(torch.add, arguments)


@register(
    "aten.mul",
    _TWO,
)
def mul(arguments: dict[str, Any]) -> Thunk:
    """``out = x * y``; y may be a number, and either may broadcast."""
    return _of_two(torch.mul, arguments)


@register(
    "aten.pow",
    schema(tensor("x", "..."), number("exponent"), written("out", "...")),
)
def power(arguments: dict[str, Any]) -> Thunk:
    """``out = x ** exponent``, a number."""
    return _of_one(torch.pow, arguments, float(arguments["exponent"]))


@register(
    "aten.rsqrt",
    schema(tensor("x", "..."), written("out", "...")),
)
def rsqrt(arguments: dict[str, Any]) -> Thunk:
    """``out = 1 / sqrt(x)``."""
    return _of_one(torch.rsqrt, arguments)


@register(
    "aten.silu",
    schema(tensor("x", "..."), written("out", "...", like="x")),
)
def silu(arguments: dict[str, Any]) -> Thunk:
    """``out = x * sigmoid(x)``."""
    return _of_one(torch.ops.aten.silu.out, arguments)


@register(
    "aten.mean_columns",
    schema(tensor("x", "... width"), written("out", "... 1", like="x")),
)
def mean_columns(arguments: dict[str, Any]) -> Thunk:
    """x [rows, width] -> out [rows, 1], the mean of each row."""
    x, out = arguments["x"], arguments["out"]
    _require_shape("out", out, (*x.shape[:-1], 1))
    return partial(torch.mean, x, -1, True, out=out)


@register(
    "aten.argmax_rows",
    schema(
        tensor("x", "rows width"),
        written("out", "rows", "int64", leaves="greedy"),
    ),
)
def argmax_rows(arguments: dict[str, Any]) -> Thunk:
    """x [rows, width] -> out int64 [rows], the place of the largest of each row, the first of
    equal ones; -1 where it is not finite or the row holds NaN."""
    x, out = arguments["x"], arguments["out"]
    _require_shape("out", out, (x.shape[0],))
    if out.dtype != torch.int64:
        raise PlanError("'out' has the wrong dtype", expected="int64", found=str(out.dtype))
    largest = x.new_empty(x.shape[0])
    lost = torch.empty_like(largest, dtype=torch.bool)

    def thunk() -> None:
        torch.max(x, 1, out=(largest, out))
        torch.sub(largest, largest, out=largest)  # 0, or NaN where it is not finite
        torch.ne(largest, 0, out=lost)
        out.masked_fill_(lost, -1)

    return thunk


@register(
    "aten.slice_columns",
    schema(
        tensor("x", "... width"),
        integer("start"),
        integer("stop", 1),
        written("out", "... columns", like="x"),
        relations=("start+columns == stop", "stop <= width"),
    ),
)
def slice_columns(arguments: dict[str, Any]) -> Thunk:
    """``out = x[:, start:stop]``: x [rows, width]."""
    x, out = arguments["x"], arguments["out"]
    start, stop = int(arguments["start"]), int(arguments["stop"])
    if not 0 <= start < stop <= x.shape[-1]:
        raise PlanError(
            "the columns do not exist",
            expected=f"within 0:{x.shape[-1]}",
            found=f"{start}:{stop}",
        )
    _require_shape("out", out, (*x.shape[:-1], stop - start))
    return partial(out.copy_, x[..., start:stop])


@register(
    "aten.linear",
    LINEAR,
)
def linear(arguments: dict[str, Any]) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [rows, k], weight [n, k], bias [n] or None."""
    x, out, bias = arguments["x"], arguments["out"], arguments.get("bias")
    weight = arguments["weight"].t()
    if x.shape[-1] != weight.shape[0] or out.shape[-1] != weight.shape[1]:
        raise PlanError(
            "a linear's shapes do not fit",
            expected=f"x [.., {weight.shape[0]}], out [.., {weight.shape[1]}]",
            found=f"x {list(x.shape)}, out {list(out.shape)}",
        )
    rows = x.view(-1, weight.shape[0])
    result = out.view(-1, weight.shape[1])
    _require_shape("out", result, (rows.shape[0], weight.shape[1]))
    if bias is None:
        return partial(torch.mm, rows, weight, out=result)
    return partial(torch.addmm, bias, rows, weight, out=result)


@register(
    "aten.index_select",
    schema(
        tensor("x", "places width"),
        tensor("rows", "rows", *INDICES, below="places"),
        written("out", "rows width", like="x"),
    ),
)
def index_select(arguments: dict[str, Any]) -> Thunk:
    """``out = x[rows]``: x [m, ...], rows int32 or int64 [n]."""
    x, rows, out = arguments["x"], arguments["rows"], arguments["out"]
    _require_shape("out", out, (rows.numel(), *x.shape[1:]))
    return partial(torch.index_select, x, 0, rows, out=out)


@register(
    "aten.embedding",
    schema(
        tensor("ids", "...", *INDICES, below="places"),
        tensor("weight", "places width"),
        written("out", "... width", like="weight"),
    ),
)
def embedding(arguments: dict[str, Any]) -> Thunk:
    """``out = weight[ids]``: weight [vocabulary, hidden], ids [tokens]."""
    ids, out = arguments["ids"].view(-1), arguments["out"]
    weight = arguments["weight"]
    rows = out.view(-1, weight.shape[1])
    _require_shape("out", rows, (ids.numel(), weight.shape[1]))
    return partial(torch.index_select, weight, 0, ids, out=rows)


@register(
    "aten.split_columns",
    schema(
        tensor("x", "rows _"),
        integers("sizes", equals="out"),
        written("out", "rows _", like="x", numbered=True),
        relations=("out.columns == x.columns",),
    ),
)
def split_columns(arguments: dict[str, Any]) -> Thunk:
    """Copy the column ranges ``sizes`` of x [rows, sum] into ``out_0``, ``out_1``, ..."""
    x, sizes = arguments["x"], list(arguments["sizes"])
    if sum(sizes) != x.shape[1]:
        raise PlanError("the columns do not add up", expected=str(x.shape[1]), found=str(sizes))
    outputs = [
        arguments[f"out_{number}"].view(x.shape[0], size) for number, size in enumerate(sizes)
    ]
    return partial(torch.split_with_sizes_copy, x, sizes, 1, out=outputs)


@register(
    "aten.concat_columns",
    schema(
        tensor("part", "rows _", numbered=True),
        written("out", "rows _", like="part_0"),
        relations=("part.columns == out.columns",),
    ),
)
def concat_columns(arguments: dict[str, Any]) -> Thunk:
    """``out = cat((part_0, part_1, ...), dim=1)``: parts [rows, n_i]."""
    count = sum(name.startswith("part_") for name in arguments)
    parts = [arguments[f"part_{number}"] for number in range(count)]
    out = arguments["out"]
    _require_shape("out", out, (parts[0].shape[0], sum(part.shape[1] for part in parts)))
    return partial(torch.cat, parts, 1, out=out)


def _of_one(function: Callable[..., Any], arguments: dict[str, Any], *more: float) -> Thunk:
    x, out = arguments["x"], arguments["out"]
    _require_shape("out", out, tuple(x.shape))
    return partial(function, x, *more, out=out)


def _of_two(function: Callable[..., Any], arguments: dict[str, Any]) -> Thunk:
    x, y, out = arguments["x"], arguments["y"], arguments["out"]
    # Of tensors: torch.broadcast_shapes imports its symbolic shapes, most of a second.
    both = torch.broadcast_tensors(x, y)[0] if isinstance(y, torch.Tensor) else x
    _require_shape("out", out, tuple(both.shape))
    return partial(function, x, y, out=out)


def _require_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """torch would resize an ``out`` of another shape, into the memory of its neighbours."""
    if tuple(tensor.shape) != tuple(shape):
        raise PlanError(
            f"'{name}' has the wrong shape",
            expected=str(list(shape)),
            found=str(list(tensor.shape)),
        )


def _require_size(name: str, tensor: torch.Tensor, size: int) -> None:
    if tensor.numel() != size:
        raise PlanError(
            f"'{name}' has the wrong size",
            expected=f"{size} elements",
            found=f"{list(tensor.shape)}",
        )
