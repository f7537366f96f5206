"""The experts of many tokens through torch's grouped product, where torch has one.

Its results are new tensors in every call, which replays of a graph keep in their pool. So it is
never a default: it runs only where it was measured to be the fastest, or asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.activation import multiply
from glmc_runtime.kernels.cuda.moe.common import (
    Configuration,
    Experts,
    bind_combine,
    workspace_views,
)
from glmc_runtime.kernels.cuda.moe.routing import Routing, bind_routing

_BLOCK_M = 128  # of the table of tiles, which this variant does not look at


def default(call: Experts) -> Configuration:
    return {"variant": "grouped_mm"}


def candidates(call: Experts) -> Iterator[Configuration]:
    if _product() is not None and call.x.dtype == torch.bfloat16 and not call.is_local:
        yield default(call)


def _product() -> Any:
    return getattr(torch, "_grouped_mm", None)


def bind(call: Experts, configuration: Configuration) -> Thunk:
    product = _product()
    if product is None or call.x.dtype != torch.bfloat16 or call.is_local:
        raise PlanError(
            "torch has no grouped product for this call",
            expected="torch._grouped_mm, bfloat16, and all experts on this rank",
            remedy="choose another variant, such as 'sorted_tiles'",
        )
    x, dtype = call.x, call.x.dtype
    pairs, width, shared_width = call.pairs, call.width, call.shared_width
    rows, order64, gathered, merged, activated, results, shared_merged, shared_activated, *ints = (
        workspace_views(
            x.device,
            (pairs, torch.int32),
            (pairs, torch.int64),
            (pairs * call.hidden, dtype),
            (pairs * 2 * width, dtype),
            (pairs * width, dtype),
            (call.rows * call.hidden, dtype),
            (call.tokens * 2 * shared_width, dtype),
            (call.tokens * shared_width, dtype),
            *Routing.sizes(call, _BLOCK_M),
        )
    )
    routing = Routing(*ints)
    route = bind_routing(call, routing, _BLOCK_M)
    combine = bind_combine(call, results)
    gathered = gathered.view(pairs, call.hidden)
    merged = merged.view(pairs, 2 * width)
    activated = activated.view(pairs, width)
    by_pair = results.view(call.rows, call.hidden)[:pairs]
    activate = multiply(merged[:, :width], merged[:, width:], activated)
    gate_up, down = call.gate_up.transpose(1, 2), call.down.transpose(1, 2)
    add_shared = _bind_shared(call, shared_merged, shared_activated, results)

    def run() -> None:
        route()
        torch.div(routing.order, call.top_k, rounding_mode="floor", out=rows)
        torch.index_select(x, 0, rows, out=gathered)
        merged.copy_(product(gathered, gate_up, offs=routing.ends))
        activate()
        order64.copy_(routing.order)
        by_pair.index_copy_(0, order64, product(activated, down, offs=routing.ends))
        add_shared()
        combine()

    return run


def _bind_shared(
    call: Experts, merged: torch.Tensor, activated: torch.Tensor, results: torch.Tensor
) -> Thunk:
    """The shared expert's rows of ``results``, by ordinary products."""
    gate_up, down = call.shared_gate_up, call.shared_down
    if gate_up is None or down is None:
        return lambda: None
    width = call.shared_width
    merged, activated = merged.view(call.tokens, -1), activated.view(call.tokens, width)
    out = results.view(call.rows, call.hidden)[call.pairs :]
    activate = multiply(merged[:, :width], merged[:, width:], activated)
    first, second = gate_up.t(), down.t()

    def run() -> None:
        torch.mm(call.x, first, out=merged)
        activate()
        torch.mm(activated, second, out=out)

    return run
