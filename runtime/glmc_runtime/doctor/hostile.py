"""Inputs that break careless kernels."""

from __future__ import annotations

import torch

KINDS = ("random", "ties", "all equal", "large negative")
_BLOCK = (1 << 20) + 7  # of no usual width, so that repeated rows differ


def fill_kind(
    tensor: torch.Tensor, kind: str, generator: torch.Generator, low: float = -1000.0
) -> None:
    """Fill a float tensor; ``low`` is the value of "large negative"."""
    if kind == "random":
        fill_random(tensor, generator, 1.0)
    elif kind == "ties":
        values = torch.tensor([-1.0, -0.5, 0.5, 1.0])
        picks = torch.randint(0, 4, tuple(tensor.shape), generator=generator)
        tensor.copy_(values[picks])
    elif kind == "all equal":
        tensor.fill_(0.5)
    else:
        tensor.fill_(low)


def fill_random(tensor: torch.Tensor, generator: torch.Generator, scale: float) -> None:
    """Normal numbers; a large tensor repeats one block of them."""
    flat = tensor.view(-1)
    block = (torch.randn(min(_BLOCK, flat.numel()), generator=generator) * scale).to(tensor.dtype)
    block = block.to(tensor.device)
    for start in range(0, flat.numel(), _BLOCK):
        part = flat[start : start + _BLOCK]
        part.copy_(block[: part.numel()])
