"""The routed experts: rows grouped by expert, only chosen experts read, weights read in place.

Few tokens are one call of ours. Of many, each expert's products are calls of their own: ours for
few rows, torch's beyond.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.activation import gated
from glmc_runtime.kernels.cpu.few_rows import (
    few_rows_experts,
    few_rows_product,
    prefers_few_rows,
    prefers_few_rows_experts,
)
from glmc_runtime.kernels.schema import schema, written
from glmc_runtime.kernels.shared_schemas import EXPERTS, EXPERTS_ORDER, EXPERTS_ROWS

_MAXIMUM_VIEWS = 256
_ROWS = 8  # oneDNN makes and keeps a kernel of its own for each number of rows: 0.8 MB
Group = tuple[int, int, int]
"""An expert, its first row, its rows."""


class ExpertLinear:
    """``out[rows] = x[rows] @ weight[expert].T`` for a range of rows; a thunk is made the first
    time that an expert meets a range and kept for the next.

    A range may be computed up to a multiple of eight rows: ranges come in ascending order, and each
    writes its rows after those before it.
    """

    def __init__(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        self.x, self.out, self.weights = x, out, weight.unbind(0)
        self._thunks: dict[tuple[int, int, int], Thunk] = {}

    def thunk(self, expert: int, start: int, count: int) -> Thunk:
        key = (expert, start, count)
        bound = self._thunks.get(key)
        if bound is None:
            if len(self._thunks) >= _MAXIMUM_VIEWS:
                self._thunks.clear()
            bound = self._thunks[key] = self._make(expert, start, count)
        return bound

    def _make(self, expert: int, start: int, count: int) -> Thunk:
        weight = weight_of(self.weights, expert)
        if prefers_few_rows(count, weight):
            out = self.out.narrow(0, start, count)
            return few_rows_product(self._x(start, count), weight, None, out)
        if count <= _ROWS or weight.dtype == torch.float32:
            return self._by_torch(weight, start, count)
        padded = -(-count // _ROWS) * _ROWS
        if start + padded <= self.out.shape[0]:
            return self._by_torch(weight, start, padded)
        whole, rest = count // _ROWS * _ROWS, count % _ROWS
        return in_order(
            self._by_torch(weight, start, whole), self.thunk(expert, start + whole, rest)
        )

    def _by_torch(self, weight: torch.Tensor, start: int, count: int) -> Thunk:
        out = self.out.narrow(0, start, count)
        return partial(torch.mm, self._x(start, count), weight.t(), out=out)

    def _x(self, start: int, count: int) -> torch.Tensor:
        # A source of one row stands for all rows: the only token of the step.
        return self.x if self.x.shape[0] == 1 else self.x.narrow(0, start, count)


def weight_of(weights: tuple[torch.Tensor, ...], expert: int) -> torch.Tensor:
    """The weight of an expert; raises IndexError for a number that counts none."""
    if not 0 <= expert < len(weights):  # Python would count a negative one from the end
        raise IndexError(f"there is no expert {expert}: they are 0 to {len(weights) - 1}")
    return weights[expert]


def groups_of(ids: list[int]) -> list[Group]:
    """The groups of sorted expert ids."""
    groups, start = [], 0
    for expert, rows in groupby(ids):
        count = len(list(rows))
        groups.append((expert, start, count))
        start += count
    return groups


@register(
    "cpu.moe_ffn",
    schema(
        *EXPERTS,
        *EXPERTS_ROWS,
        written("products", "tokens top_k hidden", "float32"),
        written("total", "tokens hidden", "float32"),
        *EXPERTS_ORDER,
        host=True,
    ),
)
def moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """x and out [tokens, hidden], weights float32 and ids int64 [tokens, top_k], gate_up [experts,
    2 * width, hidden], down [experts, hidden, width].

    With R = tokens * top_k, scratch in the dtype of x: gathered and results [R, hidden], merged
    [R, 2 * width], activated [R, width]; products float32 [tokens, top_k, hidden], total float32
    [tokens, hidden]; int64 [R]: sorted_ids, order, rows. Reads ids on the host. Products with the
    weights and the sum over top_k are in float32; one cast at the end.
    """
    x, out, ids, weights = (arguments[name] for name in ("x", "out", "ids", "weights"))
    gate_up, down = arguments["gate_up"], arguments["down"]
    gathered, results, merged, activated = (
        arguments[name] for name in ("gathered", "results", "merged", "activated")
    )
    products, total = arguments["products"], arguments["total"]
    sorted_ids, order, rows = (arguments[name] for name in ("sorted_ids", "order", "rows"))
    tokens, top_k = ids.shape
    experts, hidden, width = down.shape
    require_dtype("x", x)
    require_dtype("ids", ids, torch.int64)
    for name, like in (("gate_up", gate_up), ("down", down), ("merged", merged)):
        require_dtype(name, like, x.dtype)
    require_shape("x", x, (tokens, hidden))
    require_shape("gate_up", gate_up, (experts, 2 * width, hidden))
    require_shape("merged", merged, (tokens * top_k, 2 * width))
    require_shape("products", products, (tokens, top_k, hidden))

    if prefers_few_rows_experts(arguments):
        return few_rows_experts(arguments, None)
    alone = tokens == 1
    first = ExpertLinear(x if alone else gathered, gate_up, merged)
    second = ExpertLinear(activated, down, results)
    activate = gated(merged[:, :width], merged[:, width:], activated)
    flat_ids = ids.view(-1)
    flat_products = products.view(-1, hidden)
    ordered = results if alone else gathered
    sort = in_order(
        partial(torch.sort, flat_ids, stable=True, out=(sorted_ids, order)),
        partial(torch.div, order, top_k, rounding_mode="floor", out=rows),
        partial(torch.index_select, x, 0, rows, out=gathered),
    )
    combine = in_order(
        partial(flat_products.copy_, ordered),
        partial(products.mul_, weights.unsqueeze(-1)),
        partial(torch.sum, products, 1, out=total),
        partial(out.copy_, total),
    )

    def run() -> None:
        if alone:
            groups = [(expert, row, 1) for row, expert in enumerate(flat_ids.tolist())]
        else:
            sort()
            groups = groups_of(sorted_ids.tolist())
        for group in groups:
            first.thunk(*group)()
        activate()
        for group in groups:
            second.thunk(*group)()
        if not alone:
            gathered.index_copy_(0, order, results)
        combine()

    return run
