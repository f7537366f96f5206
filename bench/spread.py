"""Random weights of the benchmarks: of one spread in our models and in an engine's.

Names are those of parameters and buffers, as Hugging Face or an engine spells them.
"""

from __future__ import annotations

import torch

WEIGHT = 0.02
BIAS = 0.001
"""Standard deviation of biases. Those of the values add the same vector to every token: at 0.02, as
weights have it, they outweigh the tokens of a long context that was prefilled, and all sequences
choose the same experts."""
CORRECTION = "e_score_correction_bias"
"""Of a router: a buffer of Hugging Face's model, a parameter of vLLM's. Its spread is small beside
that of the scores, so that experts are chosen about evenly."""
_CORRECTION_STD = 0.01


def std_of(name: str, bias: float = BIAS) -> float | None:
    """The standard deviation around 0, ``bias`` of biases; None of norms, which are ones."""
    if "norm" in name:
        return None
    if name.endswith(CORRECTION):
        return _CORRECTION_STD
    return bias if name.endswith(".bias") else WEIGHT


def draw(
    name: str, tensor: torch.Tensor, generator: torch.Generator, bias: float = BIAS
) -> torch.Tensor:
    """Fill ``tensor`` by its name."""
    std = std_of(name, bias)
    return tensor.fill_(1.0) if std is None else tensor.normal_(0.0, std, generator=generator)
