"""Memory of each rank's card that kernels of all ranks read and write: torch's symmetric memory.

Torch allocates it and exchanges the handles; the kernels are ours and take addresses. NVLink
multicast, which torch would set up beside it, stays off, and a card on which it doesn't is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.collectives.over_peers import peers_module
from glmc_runtime.collectives.wire import Wire
from glmc_runtime.errors import GuardError

MULTICAST_OFF: Mapping[str, str] = MappingProxyType(
    {
        "NCCL_NVLS_ENABLE": "0",
        "NVSHMEM_DISABLE_NVLS": "1",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    }
)
"""Variables by which NCCL, NVSHMEM and torch leave NVLink multicast alone: each reads its own when
it is first used."""
_MODULE = "torch.distributed._symmetric_memory"
_NAMES = ("empty", "rendezvous", "_SymmetricMemory")


class SymmetricMemory:
    """Making it is a collective call; ``peers`` is what kernels of this rank take. Raises
    :class:`GuardError` on every rank where torch, Triton or a card of one can't."""

    def __init__(self, wire: Wire, device: torch.device) -> None:
        os.environ.update(MULTICAST_OFF)
        refused: GuardError | None = None
        try:
            library, ours = _library(), peers_module()
            self._memory: Tensor = _allocated(library, ours.memory_bytes(wire.size), device)
        except GuardError as error:
            refused = error
        _require_all(wire, device, refused)
        try:
            self._handle: Any = library.rendezvous(self._memory, wire.process_group)
        except RuntimeError as error:
            raise _no_peers(error) from error
        addresses = self._addresses(wire, device)
        self.peers = ours.PeerMemory(wire.rank, addresses, ours.new_state(device))

    def _addresses(self, wire: Wire, device: torch.device) -> tuple[int, ...]:
        """Of each rank's memory as this rank sees it. Torch may cut it from a larger allocation,
        of which the handle has the start. Returns when the memory of all ranks is zero."""
        starts = list(self._handle.buffer_ptrs)
        own = torch.tensor([self._memory.data_ptr() - starts[wire.rank]], device=device)
        offsets = [torch.empty_like(own) for _ in range(wire.size)]
        wire.process_group.allgather([offsets], [own]).wait()
        return tuple(start + int(offset) for start, offset in zip(starts, offsets, strict=True))


def _allocated(library: Any, length: int, device: torch.device) -> Tensor:
    if _has_multicast(library, device):
        raise _refused("NVLink multicast off", "a torch that doesn't leave it off")
    try:
        memory: Tensor = library.empty(length, dtype=torch.uint8, device=device)
        return memory.zero_()
    except RuntimeError as error:
        raise _no_peers(error) from error


def _require_all(wire: Wire, device: torch.device, refused: GuardError | None) -> None:
    """Raise on every rank where one has no memory: none may wait for it in the rendezvous."""
    own = torch.tensor([int(refused is not None)], device=device)
    found = [torch.empty_like(own) for _ in range(wire.size)]
    wire.process_group.allgather([found], [own]).wait()
    if refused is not None:
        raise refused
    without = [str(rank) for rank, flag in enumerate(found) if int(flag)]
    if without:
        raise _refused("memory on every rank", f"none on rank {', '.join(without)}")


def _no_peers(error: RuntimeError) -> GuardError:
    words = next(iter(str(error).splitlines()), "")[:200]
    return _refused("cards of one host that read each other's memory", words)


def _library() -> Any:
    """Torch's module; raises :class:`GuardError` where it lacks what is used here."""
    try:
        module: Any = import_module(_MODULE)
    except ImportError:
        module = None
    missing = [name for name in _NAMES if not hasattr(module, name)]
    if missing:
        raise _refused(
            f"{_MODULE} with {', '.join(_NAMES)}",
            f"torch {torch.__version__} without {', '.join(missing)}",
        )
    return module


def _has_multicast(library: Any, device: torch.device) -> bool:
    """Whether torch would set up NVLink multicast all the same."""
    kinds: Any = import_module("torch._C._autograd").DeviceType
    kind = kinds.CUDA if device.type == "cuda" else kinds.CPU
    return bool(library._SymmetricMemory.has_multicast_support(kind, device.index or 0))


def _refused(expected: str, found: str) -> GuardError:
    return GuardError(
        "the ranks have no memory of peers",
        expected=expected,
        found=found,
        remedy="leave the all-reduces to the library: take a table that doesn't name "
        "peer_one_shot or peer_two_shot",
    )
