"""The all-reduces over the memory of peers by name: kernels in Triton, imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.errors import GuardError

LEAST_TRITON = (3, 5)
"""Triton 3.4 gives what an atomic operation found to some threads of a program alone: the others
would wait for ever."""
_KERNELS = "glmc_runtime.kernels.cuda.collectives"
_FUNCTIONS = {"peer_one_shot": "one_shot", "peer_two_shot": "two_shot"}


def over_peers(name: str, peers: Any, x: Tensor) -> list[Thunk]:
    """The steps of the all-reduce ``name`` of a flat, contiguous ``x`` in place; ``peers`` is the
    rank's ``PeerMemory``."""
    function = _FUNCTIONS[name]
    make: Callable[[Any, Tensor], list[Thunk]] = getattr(_module(function), function)
    return make(peers, x)


def peers_module() -> ModuleType:
    """What describes memory of peers; raises :class:`GuardError` where Triton is not installed, or
    too old a one."""
    return _module("peers")


def _module(name: str) -> ModuleType:
    try:
        found = str(import_module("triton").__version__)
        if tuple(map(int, found.split(".")[:2])) < LEAST_TRITON:
            raise _refused(found)
        return import_module(f"{_KERNELS}.{name}")
    except ModuleNotFoundError as error:
        raise _refused(f"no module {error.name}") from error


def _refused(found: str) -> GuardError:
    least = ".".join(map(str, LEAST_TRITON))
    return GuardError(
        "all-reduces over the memory of peers are kernels in Triton, which is missing or too old",
        expected=f"triton {least} or later",
        found=found,
        remedy="install it, or take a table that doesn't name them",
    )
