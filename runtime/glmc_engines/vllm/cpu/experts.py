"""Routed experts in plain torch, for vLLM's own models on a host.

vLLM chooses no kernel for experts on a platform that is not its own, and asks the platform for a
method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from vllm.model_executor.custom_op import CustomOp, op_registry_oot
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)

_NAME = "UnquantizedFusedMoEMethod"


class HostExperts(UnquantizedFusedMoEMethod):  # type: ignore[misc]
    """One expert after the other, over the tokens that chose it."""

    @property
    def is_monolithic(self) -> bool:
        """Whether it chooses the experts, too."""
        return False

    def process_weights_after_loading(self, layer: Any) -> None:
        return None

    def apply(
        self,
        layer: Any,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        found = torch.zeros(x.shape, dtype=torch.float32)
        for expert in topk_ids.unique().tolist():
            rows, places = (topk_ids == expert).nonzero(as_tuple=True)
            gate, up = F.linear(x[rows], layer.w13_weight[expert]).chunk(2, dim=-1)
            down = F.linear(F.silu(gate) * up, layer.w2_weight[expert])
            found.index_add_(0, rows, down.float() * topk_weights[rows, places, None].float())
        return found.to(x.dtype)


def register_experts() -> None:
    """Have vLLM use them, once in a process."""
    if _NAME not in op_registry_oot:
        CustomOp.register_oot(name=_NAME)(HostExperts)
