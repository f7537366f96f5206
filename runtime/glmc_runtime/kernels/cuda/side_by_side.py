"""Heads for kernels that know any strides but that of the entries of a head."""

from __future__ import annotations

from functools import partial

import torch

from glmc_runtime.kernels import Thunk


def side_by_side(tensor: torch.Tensor, steps: list[Thunk]) -> torch.Tensor:
    """``tensor`` if the entries of its last dimension are side by side, else a copy that is made
    anew by what is added to ``steps``."""
    if tensor.stride(-1) == 1:
        return tensor
    with torch.inference_mode(False):  # the next call may not be in inference mode
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    steps.append(partial(copy.copy_, tensor))
    return copy
