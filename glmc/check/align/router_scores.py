"""The scores by which a router chooses experts, from its input and its own weights.

A router returns what it chose. How close a choice was, which says whether two sides that differ had
to, is in the scores: sigmoid of the logits in float32, with the bias that corrects the balance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROUTER_SCORES = "router_scores"
_BIAS = "e_score_correction_bias"


def derivation(module: nn.Module) -> str:
    """How the scores of a router are derived; '' of a module that is none."""
    there = isinstance(getattr(module, _BIAS, None), Tensor)
    if not there or not isinstance(getattr(module, "weight", None), Tensor):
        return ""
    return f"sigmoid(forward_input.0 @ weight.T) + {_BIAS}, in float32"


def router_scores(module: Any, hidden: Tensor) -> Tensor:
    """float32 [tokens, experts]."""
    rows = hidden.reshape(-1, hidden.shape[-1]).float()
    scores = torch.nn.functional.linear(rows, module.weight.float()).sigmoid()
    bias: Tensor = getattr(module, _BIAS)
    return scores + bias.float()
