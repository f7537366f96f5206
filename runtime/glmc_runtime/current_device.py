"""Which of several cards is meant: the one that was current when memory was made on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def indexed(device: torch.device) -> torch.device:
    """``device`` with its number: "cuda" alone is another card after ``set_device``."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def made_current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels, streams and tuned configurations of a call are those of the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
