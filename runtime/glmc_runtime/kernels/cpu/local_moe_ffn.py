"""The routed experts of one rank: slots of other ranks' experts cost a sort of their ids alone."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.activation import gated
from glmc_runtime.kernels.cpu.few_rows import few_rows_experts, prefers_few_rows_experts
from glmc_runtime.kernels.cpu.moe_ffn import ExpertLinear, Group, groups_of
from glmc_runtime.kernels.schema import schema, written
from glmc_runtime.kernels.shared_schemas import EXPERTS_ROWS, LOCAL_EXPERTS, LOCAL_ORDER


class LocalRows:
    """The (token, expert) pairs of one rank's experts, sorted by expert.

    ``sort`` reads the ids on the host; a step without such pairs has ``count`` 0. ``order`` are
    then the pairs' places among all of the step and ``tokens`` their tokens.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        names = ("local_ids", "sorted_ids", "order", "rows")
        self._local, self._sorted, self._order, self._rows = (arguments[name] for name in names)
        self._experts = arguments["down"].shape[0]
        self._top_k = arguments["ids"].shape[1]
        self._find = in_order(
            partial(torch.sub, arguments["ids"].view(-1), arguments["first"], out=self._local),
            partial(torch.sort, self._local, stable=True, out=(self._sorted, self._order)),
        )
        self.groups: list[Group] = []
        self.order = self.tokens = self._order

    def sort(self) -> int:
        """Number of pairs; ``groups`` are theirs by expert."""
        self._find()
        ids = self._sorted.tolist()
        start, stop = bisect_left(ids, 0), bisect_left(ids, self._experts)
        self.groups = groups_of(ids[start:stop])
        self.order = self._order.narrow(0, start, stop - start)
        self.tokens = self._rows.narrow(0, 0, stop - start)
        torch.div(self.order, self._top_k, rounding_mode="floor", out=self.tokens)
        return stop - start


def check_local_experts(arguments: dict[str, Any]) -> None:
    """Raise :class:`~glmc_runtime.errors.PlanError` unless the operands fit together."""
    x, ids, down = arguments["x"], arguments["ids"], arguments["down"]
    tokens, top_k = ids.shape
    experts, hidden, width = down.shape
    require_dtype("x", x)
    for name in ("ids", "first", "local_ids"):
        require_dtype(name, arguments[name], torch.int64)
    for name in ("gate_up", "down", "out", "merged"):
        require_dtype(name, arguments[name], x.dtype)
    require_shape("x", x, (tokens, hidden))
    require_shape("weights", arguments["weights"], (tokens, top_k))
    require_shape("gate_up", arguments["gate_up"], (experts, 2 * width, hidden))
    require_shape("first", arguments["first"], (1,))
    require_shape("merged", arguments["merged"], (tokens * top_k, 2 * width))


@register(
    "cpu.local_moe_ffn",
    schema(
        *LOCAL_EXPERTS,
        *EXPERTS_ROWS,
        written("products", "tokens*top_k hidden", "float32"),
        written("scales", "tokens*top_k", "float32"),
        written("total", "tokens hidden", "float32"),
        *LOCAL_ORDER,
        host=True,
    ),
)
def local_moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.moe_ffn``, with the experts from ``first`` (int64 [1]) on alone: ids of others
    contribute nothing. A token's results are added in float32, in an order that its ids decide."""
    check_local_experts(arguments)
    x, out, weights = (arguments[name] for name in ("x", "out", "weights"))
    gathered, results, merged, activated = (
        arguments[name] for name in ("gathered", "results", "merged", "activated")
    )
    products, scales, total = (arguments[name] for name in ("products", "scales", "total"))
    tokens, width = x.shape[0], arguments["down"].shape[2]
    if prefers_few_rows_experts(arguments):
        return few_rows_experts(arguments, arguments["first"])
    pairs = LocalRows(arguments)
    first = ExpertLinear(x if tokens == 1 else gathered, arguments["gate_up"], merged)
    second = ExpertLinear(activated, arguments["down"], results)
    flat_weights = weights.view(-1)

    def run() -> None:
        count = pairs.sort()
        if not count:
            out.zero_()
            return
        merged_rows, found = merged.narrow(0, 0, count), results.narrow(0, 0, count)
        weighed, scale = products.narrow(0, 0, count), scales.narrow(0, 0, count)
        if tokens > 1:
            torch.index_select(x, 0, pairs.tokens, out=gathered.narrow(0, 0, count))
        for group in pairs.groups:
            first.thunk(*group)()
        gated(merged_rows[:, :width], merged_rows[:, width:], activated.narrow(0, 0, count))()
        for group in pairs.groups:
            second.thunk(*group)()
        torch.index_select(flat_weights, 0, pairs.order, out=scale)
        weighed.copy_(found)
        weighed.mul_(scale.unsqueeze(-1))
        total.zero_()
        total.index_add_(0, pairs.tokens, weighed)
        out.copy_(total)

    return run
