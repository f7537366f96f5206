"""Whole rows: embedding, selection, addition."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, require_dtype, require_shape
from glmc_runtime.kernels.schema import INDICES, schema, tensor, written


@register(
    "cpu.embedding",
    schema(
        tensor("token_ids", "...", *INDICES, below="places"),
        tensor("weight", "places width"),
        written("out", "... width", like="weight"),
    ),
)
def embedding(arguments: dict[str, Any]) -> Thunk:
    """``out = weight[token_ids]``: token_ids int32 or int64 [...], weight [vocabulary, hidden]."""
    token_ids, weight, out = (arguments[name] for name in ("token_ids", "weight", "out"))
    require_dtype("token_ids", token_ids, torch.int64, torch.int32)
    require_shape("out", out, (*token_ids.shape, weight.shape[1]))
    return partial(torch.index_select, weight, 0, token_ids.view(-1), out=flat(out))


@register(
    "cpu.select_rows",
    schema(
        tensor("x", "places width"),
        tensor("rows", "rows", *INDICES, below="places"),
        written("out", "rows width", like="x"),
    ),
)
def select_rows(arguments: dict[str, Any]) -> Thunk:
    """``out = x[rows]``: x [tokens, width], rows int32 or int64 [sequences]."""
    x, rows, out = (arguments[name] for name in ("x", "rows", "out"))
    require_dtype("rows", rows, torch.int64, torch.int32)
    require_shape("out", out, (rows.shape[0], *x.shape[1:]))
    return partial(torch.index_select, x, 0, rows, out=out)


@register(
    "cpu.add",
    schema(
        tensor("x", "..."),
        tensor("y", "...", like="x"),
        written("out", "...", like="x"),
        aliases=(("out", "x"), ("out", "y")),
    ),
)
def add(arguments: dict[str, Any]) -> Thunk:
    """``out = x + y``, all of one shape; out may be x or y."""
    x, y, out = (arguments[name] for name in ("x", "y", "out"))
    require_shape("y", y, tuple(x.shape))
    require_shape("out", out, tuple(x.shape))
    return partial(torch.add, x, y, out=out)
