"""The all-reduces over the memory of peers by name: kernels in Triton, imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.errors import GuardError

_KERNELS = "glmc_runtime.kernels.cuda.collectives"
_FUNCTIONS = {"peer_one_shot": "one_shot", "peer_two_shot": "two_shot"}


def over_peers(name: str, peers: Any, x: Tensor) -> list[Thunk]:
    """The steps of the all-reduce ``name`` of a flat, contiguous ``x`` in place; ``peers`` is the
    rank's ``PeerMemory``."""
    function = _FUNCTIONS[name]
    make: Callable[[Any, Tensor], list[Thunk]] = getattr(_module(function), function)
    return make(peers, x)


def peers_module() -> ModuleType:
    """What describes memory of peers; raises :class:`GuardError` where Triton is not installed."""
    return _module("peers")


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"{_KERNELS}.{name}")
    except ModuleNotFoundError as error:
        raise GuardError(
            "all-reduces over the memory of peers are kernels in Triton, which is not installed",
            expected="triton",
            found=f"no module {error.name}",
            remedy="install triton, or take a table that doesn't name them",
        ) from error
