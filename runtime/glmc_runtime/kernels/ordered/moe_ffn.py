"""The routed experts in a fixed order of sums: each product by its row, the sum over the chosen
experts by slot."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.moe_ffn import groups_of
from glmc_runtime.kernels.ordered.native import combine, gated, product
from glmc_runtime.kernels.schema import schema, written
from glmc_runtime.kernels.shared_schemas import EXPERTS

_ORDER = (
    written("sorted_ids", "tokens*top_k", "int64"),
    written("order", "tokens*top_k", "int64"),
    written("rows", "tokens*top_k", "int64"),
)
_MAXIMUM_THUNKS = 4096


@register(
    "ordered.moe_ffn",
    schema(
        *EXPERTS,
        written("gathered", "tokens*top_k hidden", like="x"),
        written("results", "tokens*top_k hidden", like="x"),
        written("merged", "tokens*top_k 2*width", like="x"),
        written("activated", "tokens*top_k width", like="x"),
        *_ORDER,
        host=True,
    ),
)
def moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.moe_ffn``: results of experts are rounded to the dtype, weighed and added in
    float32, slot after slot, and rounded once more. Reads ids on the host."""
    x, out, ids = (arguments[name] for name in ("x", "out", "ids"))
    gate_up, down = arguments["gate_up"], arguments["down"]
    gathered, results, merged, activated = (
        arguments[name] for name in ("gathered", "results", "merged", "activated")
    )
    (tokens, top_k), hidden, width = ids.shape, down.shape[1], down.shape[2]
    require_dtype("ids", ids, torch.int64)
    for name, like in (("gate_up", gate_up), ("down", down), ("out", out)):
        require_dtype(name, like, x.dtype)
    require_shape("x", x, (tokens, hidden))
    require_shape("gate_up", gate_up, (down.shape[0], 2 * width, hidden))
    require_shape("merged", merged, (tokens * top_k, 2 * width))
    first = _ExpertProduct(gathered, gate_up, merged)
    second = _ExpertProduct(activated, down, results)
    sort, groups = by_expert(arguments, x, gathered)
    activate = gated(merged[:, :width], merged[:, width:], activated)
    add = combine(gathered.view(tokens, top_k, 1, hidden), arguments["weights"], out)
    order = arguments["order"]

    def run() -> None:
        sort()
        found = groups_of(groups.tolist())
        for group in found:
            first(group)
        activate()
        for group in found:
            second(group)
        gathered.index_copy_(0, order, results)
        add()

    return run


def by_expert(
    arguments: dict[str, Any], x: torch.Tensor, gathered: torch.Tensor
) -> tuple[Thunk, torch.Tensor]:
    """What gathers the rows of x by expert, and the sorted ids that it leaves."""
    ids, order, rows = arguments["ids"], arguments["order"], arguments["rows"]
    sorted_ids, top_k = arguments["sorted_ids"], ids.shape[1]
    sort = in_order(
        partial(torch.sort, ids.view(-1), stable=True, out=(sorted_ids, order)),
        partial(torch.div, order, top_k, rounding_mode="floor", out=rows),
        partial(torch.index_select, x, 0, rows, out=gathered),
    )
    return sort, sorted_ids


class _ExpertProduct:
    """``out[rows] = x[rows] @ weight[expert].T`` for a group (expert, first row, rows); a thunk is
    kept for the next step."""

    def __init__(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        self._x, self._out, self._weights = x, out, weight.unbind(0)
        self._thunks: dict[tuple[int, int, int], Thunk] = {}

    def __call__(self, group: tuple[int, int, int]) -> None:
        thunk = self._thunks.get(group)
        if thunk is None:
            if len(self._thunks) >= _MAXIMUM_THUNKS:
                self._thunks.clear()
            expert, start, count = group
            x, out = (tensor.narrow(0, start, count) for tensor in (self._x, self._out))
            thunk = self._thunks[group] = product(x, self._weights[expert], out)
        thunk()
