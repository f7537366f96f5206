"""Whole rows: embedding, selection, addition, as ``aten`` has them."""

from __future__ import annotations

from typing import Any

from glmc_runtime.kernels import Thunk, aten, register, schema_of
from glmc_runtime.kernels.schema import INDICES, schema, tensor, written

register("cpu.select_rows", schema_of("aten.index_select"))(aten.index_select)
register("cpu.add", schema_of("aten.add"))(aten.add)


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
