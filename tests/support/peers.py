"""All-reduces over the memory of peers where there are no cards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from glmc_runtime.collectives import group as module
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.library import library_all_reduce
from glmc_runtime.collectives.wire import Thunk, Wire


def peers_by_the_library(patch: pytest.MonkeyPatch) -> None:
    """Those of gloo in their place, so that what is around the kernels can run on threads."""

    def over_peers(name: str, peers: Wire, x: Tensor) -> list[Thunk]:
        assert name in ("peer_one_shot", "peer_two_shot")
        return library_all_reduce(peers, x)

    def peer_memory(group: Group, _: Any) -> SimpleNamespace:
        return SimpleNamespace(peers=group.wire)

    patch.setattr(module, "over_peers", over_peers)
    patch.setattr(Group, "peer_memory", peer_memory)
