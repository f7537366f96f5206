"""Memory that all calls on a device share: partial sums of split reductions, and their tickets.

Kernels run one after the other on one stream and none leaves anything behind for the next, so one
piece of memory per device serves them all. It grows by a new tensor: who holds the old one keeps
it. Tickets are zero between calls, because the program that arrives last sets its ticket back.
"""

from __future__ import annotations

import torch

from glmc_runtime.errors import PlanError

_SMALLEST = 1 << 14

_floats: dict[torch.device, torch.Tensor] = {}
_tickets: dict[torch.device, torch.Tensor] = {}


def _shared(
    kept: dict[torch.device, torch.Tensor], device: torch.device, count: int, dtype: torch.dtype
) -> torch.Tensor:
    found = kept.get(device)
    if found is None or found.numel() < count:
        size = max(count, _SMALLEST, 0 if found is None else 2 * found.numel())
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # Its zeros would be a node of that graph, and its memory the graph's own.
            raise PlanError(
                "a kernel's work memory can't be made while a device graph is captured",
                remedy="call once with these shapes before the capture",
            )
        with torch.inference_mode(False):  # whoever asks next may not be in inference mode
            found = kept[device] = torch.zeros(size, dtype=dtype, device=device)
    return found[:count]


def floats(device: torch.device, count: int) -> torch.Tensor:
    """float32 [count], to be written before it is read."""
    return _shared(_floats, device, count, torch.float32)


def tickets(device: torch.device, count: int) -> torch.Tensor:
    """int32 [count] of zeros, to be left as zeros."""
    return _shared(_tickets, device, count, torch.int32)
