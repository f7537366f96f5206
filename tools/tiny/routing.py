"""Balance of the experts: the bias update without auxiliary loss, and measured statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter


@dataclass(frozen=True)
class LayerRouting:
    """How one layer's gate spread some text over its experts."""

    layer: int
    largest_share: float
    smallest_share: float
    entropy: float
    """Entropy of the shares over the logarithm of the expert count; 1 is uniform."""
    changed_by_bias: float
    """Share of tokens whose chosen set differs from the one without the correction bias."""
    bias_range: tuple[float, float]


class Balance:
    """Watches every gate of a model; nudges its correction bias after each step.

    The update is that of auxiliary-loss-free balancing (Wang et al. 2024, arXiv:2408.15664):
    bias += rate * sign(mean load - load).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._gates = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, Glm4MoeTopkRouter)
        }
        self._chosen: dict[str, torch.Tensor] = {}
        self._scores: dict[str, torch.Tensor] = {}
        for name, gate in self._gates.items():
            gate.register_forward_hook(self._watch(name))

    def _watch(self, name: str) -> Callable[..., None]:
        def hook(_gate: object, _inputs: object, output: tuple[torch.Tensor, ...]) -> None:
            logits, _, experts = output
            self._scores[name] = logits.detach().sigmoid()
            self._chosen[name] = experts.detach()

        return hook

    @torch.no_grad()
    def nudge(self, rate: float) -> None:
        """Move each bias by ``rate`` against the load of the last forward pass."""
        for name, gate in self._gates.items():
            load = torch.bincount(self._chosen[name].flatten(), minlength=gate.num_experts).float()
            gate.e_score_correction_bias += rate * torch.sign(load.mean() - load)

    @torch.no_grad()
    def statistics(self) -> tuple[LayerRouting, ...]:
        """Statistics of the last forward pass, one entry per gate."""
        return tuple(self._layer(name, gate) for name, gate in self._gates.items())

    def _layer(self, name: str, gate: Glm4MoeTopkRouter) -> LayerRouting:
        experts = self._chosen[name]
        load = torch.bincount(experts.flatten(), minlength=gate.num_experts).double()
        shares = load / load.sum()
        unbiased = self._scores[name].topk(gate.top_k, dim=-1)[1]
        changed = (experts.sort(-1)[0] != unbiased.sort(-1)[0]).any(-1).double().mean()
        bias = gate.e_score_correction_bias
        return LayerRouting(
            layer=int(name.split(".")[2]),
            largest_share=float(shares.max()),
            smallest_share=float(shares.min()),
            entropy=float(torch.special.entr(shares).sum()) / math.log(gate.num_experts),
            changed_by_bias=float(changed),
            bias_range=(float(bias.min()), float(bias.max())),
        )
