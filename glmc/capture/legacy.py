"""transformers 4.57 to 5.0: what keeps their models from being traced on the meta device.

Up to 4.57 the experts are a list of modules, walked by a data-dependent loop that torch.export
can't trace. On our own meta copy of the model the list is replaced by stacked parameters with the
names that transformers 5 uses, and the loop by the batched spelling, so everything later sees one
form.

Up to 5.0 the rope tables are computed with autocast switched off for the device of the hidden
states, and torch knows no autocast for meta tensors.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedExperts(nn.Module):
    """``gate_up_proj`` [experts, 2 * width, hidden] (gate rows first), ``down_proj`` [experts,
    hidden, width]: the layout of transformers 5."""

    def __init__(self, experts: nn.ModuleList) -> None:
        super().__init__()
        first: Any = experts[0]
        width, hidden = first.gate_proj.weight.shape
        kind = {"dtype": first.gate_proj.weight.dtype, "device": first.gate_proj.weight.device}
        self.gate_up_proj = nn.Parameter(torch.empty(len(experts), 2 * width, hidden, **kind))
        self.down_proj = nn.Parameter(torch.empty(len(experts), hidden, width, **kind))

    def forward(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        tokens, top_k = ids.shape
        x = hidden.repeat_interleave(top_k, 0)
        experts = ids.reshape(-1)
        gate_up = torch.bmm(self.gate_up_proj[experts], x.unsqueeze(-1)).squeeze(-1)
        gate, up = gate_up.chunk(2, -1)
        down = torch.bmm(self.down_proj[experts], (F.silu(gate) * up).unsqueeze(-1)).squeeze(-1)
        weighted = down * weights.reshape(-1, 1)
        return weighted.view(tokens, top_k, -1).sum(1).to(hidden.dtype)


def stack_experts(model: nn.Module) -> int:
    """Replace expert lists in place; returns how many. Does nothing on transformers 5."""
    replaced = 0
    for module in model.modules():
        experts = getattr(module, "experts", None)
        if isinstance(experts, nn.ModuleList) and hasattr(module, "moe"):
            stacked = StackedExperts(experts)
            module.experts = stacked
            vars(module)["moe"] = types.MethodType(_moe, module)
            replaced += 1
    return replaced


def _moe(self: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    return self.experts(hidden, ids, weights)  # type: ignore[no-any-return]


@contextmanager
def no_autocast_on_meta() -> Iterator[None]:
    """``torch.autocast("meta", enabled=False)`` does nothing inside; torch would raise.

    Nor would it answer ``torch.is_autocast_enabled("meta")``, which is False.
    """
    original, is_enabled = torch.autocast, torch.is_autocast_enabled

    class Autocast(original):  # type: ignore[misc, valid-type]
        def __new__(cls, device_type: str, *arguments: Any, **keywords: Any) -> Any:
            if device_type == "meta" and keywords.get("enabled") is False:
                return nullcontext()
            return super().__new__(cls)

    def is_autocast_enabled(*device_type: str) -> bool:
        return device_type != ("meta",) and is_enabled(*device_type)

    torch.autocast = Autocast  # type: ignore[misc]
    torch.is_autocast_enabled = is_autocast_enabled  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autocast = original  # type: ignore[misc]
        torch.is_autocast_enabled = is_enabled
