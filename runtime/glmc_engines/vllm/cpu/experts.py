"""Routed experts in plain torch, for vLLM's own models on a host.

vLLM chooses no kernel for experts on a platform that is not its own, and asks the platform for a
method.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional as F

from glmc_engines.vllm import compat

_Method = compat.experts_method()


def experts(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """One expert after the other, over the tokens that chose it."""
    found = torch.zeros(x.shape, dtype=torch.float32)
    for expert in topk_ids.unique().tolist():
        rows, places = (topk_ids == expert).nonzero(as_tuple=True)
        gate, up = F.linear(x[rows], gate_up[expert]).chunk(2, dim=-1)
        result = F.linear(F.silu(gate) * up, down[expert])
        found.index_add_(0, rows, result.float() * topk_weights[rows, places, None].float())
    return found.to(x.dtype)


class HostExperts(_Method):  # type: ignore[misc, valid-type]
    """A method that is handed the experts that each token chose."""

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
        return experts(x, layer.w13_weight, layer.w2_weight, topk_weights, topk_ids)


class ChoosingHostExperts(_Method):  # type: ignore[misc, valid-type]
    """The same of older releases, where the method also chooses the experts: vLLM's own code does,
    and calls what the attribute holds."""

    def process_weights_after_loading(self, layer: Any) -> None:
        self.fused_experts = self._experts

    @staticmethod
    def _experts(
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        **_: Any,
    ) -> torch.Tensor:
        return experts(hidden_states, w1, w2, topk_weights, topk_ids)


def host_experts(method: type[Any]) -> type[Any]:
    """The class of ours that stands for a release's method."""
    chosen_before = "topk_ids" in inspect.signature(method.apply).parameters
    return HostExperts if chosen_before else ChoosingHostExperts


def register_experts() -> None:
    """Have vLLM use them, once in a process."""
    compat.replace_method("UnquantizedFusedMoEMethod", host_experts(_Method))
