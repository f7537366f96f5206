"""Workspace of the CUDA kernels, one per owner: partial sums of split reductions and arrival
counters.

An owner's kernels run one after the other and none leaves anything behind for the next, so one
workspace serves them all. It grows by a new tensor: who holds the old one keeps it. Arrival
counters are zero between calls, because the last program to arrive resets its counter.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.owner import owner

_SMALLEST = 1 << 14

Pieces = dict[tuple[torch.device, torch.dtype], torch.Tensor]
_KEPT: WeakKeyDictionary[object, Pieces] = WeakKeyDictionary()


def _shared(device: torch.device, count: int, dtype: torch.dtype) -> torch.Tensor:
    pieces = _KEPT.setdefault(owner(), {})
    memory = pieces.get((device, dtype))
    if memory is None or memory.numel() < count:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # Its zeros would be a node of that graph, and its memory the graph's own.
            raise PlanError(
                "a kernel's workspace can't be made while a device graph is captured",
                remedy="call once with these shapes before the capture",
            )
        size = max(count, _SMALLEST, 0 if memory is None else 2 * memory.numel())
        with torch.inference_mode(False):  # whoever asks next may not be in inference mode
            memory = pieces[device, dtype] = torch.zeros(size, dtype=dtype, device=device)
    return memory[:count]


def floats(device: torch.device, count: int) -> torch.Tensor:
    """float32 [count], to be written before it is read."""
    return _shared(device, count, torch.float32)


def arrival_counters(device: torch.device, count: int) -> torch.Tensor:
    """int32 [count] of zeros, to be left as zeros."""
    return _shared(device, count, torch.int32)
