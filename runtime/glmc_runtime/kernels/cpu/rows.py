"""Whole rows: embedding, selection, addition, as ``aten`` has them."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.kernels import Thunk, aten, register, schema_of
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.schema import INDICES, schema, tensor, written

register("cpu.select_rows", schema_of("aten.index_select"))(aten.index_select)


@register("cpu.add", schema_of("aten.add"))
def add(arguments: dict[str, Any]) -> Thunk:
    """As ``aten.add``; of contiguous tensors of one shape a call of ours, which finds less of its
    code pushed out of the caches by the weights of a step."""
    x, y, out = (arguments[name] for name in ("x", "y", "out"))
    by_torch = aten.add(arguments)
    if not isinstance(y, torch.Tensor) or not x.shape == y.shape == out.shape:
        return by_torch
    if not serves(x, y, out) or not all(tensor.is_contiguous() for tensor in (x, y, out)):
        return by_torch
    if _partly(x, out) or _partly(y, out):
        return by_torch  # which refuses it
    return NativeCall("rows_add", (x, y, out), (x.numel(),))


def _partly(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two contiguous tensors of one size share a part of their memory, but not all."""
    apart = abs(one.data_ptr() - other.data_ptr())
    return 0 < apart < one.numel() * one.element_size()


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
    return aten.embedding({**arguments, "ids": arguments["token_ids"]})
