"""The routed experts of one rank in a fixed order of sums: what ``ordered.moe_ffn`` computes, with
zeros for the slots of other ranks' experts."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.cpu.local_moe_ffn import LocalRows, check_local_experts
from glmc_runtime.kernels.ordered.native import combine, gated, product
from glmc_runtime.kernels.schema import schema
from glmc_runtime.kernels.shared_schemas import EXPERTS_ROWS, LOCAL_EXPERTS, LOCAL_ORDER


@register(
    "ordered.local_moe_ffn",
    schema(
        *LOCAL_EXPERTS,
        *EXPERTS_ROWS,
        *LOCAL_ORDER,
        host=True,
    ),
)
def local_moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.local_moe_ffn``, with the roundings and the order of slots of ``ordered.moe_ffn``:
    a token has the same bits beside any number of others."""
    check_local_experts(arguments)
    x, ids = arguments["x"], arguments["ids"]
    gate_up, down = arguments["gate_up"].unbind(0), arguments["down"].unbind(0)
    gathered, results, merged, activated = (
        arguments[name] for name in ("gathered", "results", "merged", "activated")
    )
    (tokens, top_k), (hidden, width) = ids.shape, down[0].shape
    pairs = LocalRows(arguments)
    by_slot = gathered.view(tokens, top_k, 1, hidden)
    add = combine(by_slot, arguments["weights"], arguments["out"])

    def run() -> None:
        count = pairs.sort()
        torch.index_select(x, 0, pairs.tokens, out=gathered.narrow(0, 0, count))
        for expert, *rows in pairs.groups:
            product(gathered.narrow(0, *rows), gate_up[expert], merged.narrow(0, *rows))()
        both = merged.narrow(0, 0, count)
        gated(both[:, :width], both[:, width:], activated.narrow(0, 0, count))()
        for expert, *rows in pairs.groups:
            product(activated.narrow(0, *rows), down[expert], results.narrow(0, *rows))()
        gathered.zero_()
        gathered.index_copy_(0, pairs.order, results.narrow(0, 0, count))
        add()

    return run
