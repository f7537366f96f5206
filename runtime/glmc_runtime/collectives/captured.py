"""All-reduces as steps of a session run them on a card: in a device graph, several in a row.

From the host a call costs more than a small message takes, and a graph of one call costs its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.errors import GuardError

_GRAPHS = "glmc_runtime.replay.graph"  # stands above: it is imported when asked for
CALLS = 16
"""In a graph."""


@dataclass(frozen=True)
class Captured:
    """``calls`` calls at each replay."""

    replay: Thunk
    calls: int = CALLS

    def __call__(self) -> None:
        self.replay()


def captured(thunk: Thunk, device: torch.device, name: str) -> Thunk:
    """The calls in a graph of the card; on host memory the thunk itself. A collective call; raises
    :class:`GuardError` where ``name`` can't be captured."""
    if device.type == "cpu":
        return thunk
    try:
        (replay,) = _graphs(device).capture((thunk,) * CALLS)
    except import_module(_GRAPHS).GraphCaptureError as error:
        raise GuardError(
            f"the all-reduce '{name}' can't be captured in a device graph",
            found=next(iter(str(error).splitlines()), "")[:200],
            remedy="leave it out of what is measured in graphs",
        ) from error
    return Captured(replay)


def calls_of(thunk: Thunk) -> int:
    """How many all-reduces a call of the thunk makes."""
    return thunk.calls if isinstance(thunk, Captured) else 1


@cache
def _graphs(device: torch.device) -> Any:
    return import_module(_GRAPHS).graphs_for(device, emulated=False)
