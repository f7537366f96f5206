"""Memory that the calls of a stream share: partial sums of split reductions, and their tickets.

Kernels of one stream run one after the other and none leaves anything behind for the next, so one
piece of memory per device and stream serves them all. It grows by a new tensor: who holds the old
one keeps it. Tickets are zero between calls, because the program that arrives last sets its ticket
back. Calls that are bound on one stream must not run beside others of that stream on a second one.
"""

from __future__ import annotations

import torch

from glmc_runtime.errors import PlanError

_SMALLEST = 1 << 14

Place = tuple[torch.device, int]
"""A device and the handle of a stream on it, 0 on the host."""

_floats: dict[Place, torch.Tensor] = {}
_tickets: dict[Place, torch.Tensor] = {}


def _place(device: torch.device) -> Place:
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _shared(
    kept: dict[Place, torch.Tensor], device: torch.device, count: int, dtype: torch.dtype
) -> torch.Tensor:
    place = _place(device)
    found = kept.get(place)
    if found is None or found.numel() < count:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return _known(kept, device, count)
        size = max(count, _SMALLEST, 0 if found is None else 2 * found.numel())
        with torch.inference_mode(False):  # whoever asks next may not be in inference mode
            found = kept[place] = torch.zeros(size, dtype=dtype, device=device)
    return found[:count]


def _known(kept: dict[Place, torch.Tensor], device: torch.device, count: int) -> torch.Tensor:
    """That of the stream on which the caller warmed up: new zeros would be a node of the graph that
    he captures, and their memory the graph's own."""
    for (where, _), memory in kept.items():
        if where == device and memory.numel() >= count:
            return memory[:count]
    raise PlanError(
        "a kernel's work memory can't be made while a device graph is captured",
        remedy="call once with these shapes before the capture",
    )


def floats(device: torch.device, count: int) -> torch.Tensor:
    """float32 [count], to be written before it is read."""
    return _shared(_floats, device, count, torch.float32)


def tickets(device: torch.device, count: int) -> torch.Tensor:
    """int32 [count] of zeros, to be left as zeros."""
    return _shared(_tickets, device, count, torch.int32)
