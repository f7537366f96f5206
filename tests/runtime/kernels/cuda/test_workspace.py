"""Memory that calls share: kept while it suffices, replaced when not, counters zero, per owner."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.owner import owned_by

CPU = torch.device("cpu")


class Owner:
    pass


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workspace, "_KEPT", WeakKeyDictionary())
    with owned_by(Owner()):
        yield


def test_memory_is_shared_until_it_is_too_small() -> None:
    first, second = workspace.floats(CPU, 10), workspace.floats(CPU, 20)
    assert first.shape == (10,) and second.shape == (20,) and first.dtype == torch.float32
    assert first.data_ptr() == second.data_ptr()
    larger = workspace.floats(CPU, 1 << 15)
    assert larger.data_ptr() != first.data_ptr() and larger.numel() == 1 << 15
    first.fill_(3)
    assert (first == 3).all() and not larger.any()
    assert workspace.floats(CPU, 10).data_ptr() == larger.data_ptr()


def test_arrival_counters_are_zero_integers_of_their_own() -> None:
    counters = workspace.arrival_counters(CPU, 5)
    assert counters.dtype == torch.int32 and not counters.any()
    assert counters.data_ptr() != workspace.floats(CPU, 5).data_ptr()
    assert not workspace.arrival_counters(CPU, 1 << 16).any()


def test_each_owner_has_its_own_and_leaves_nothing() -> None:
    one, other = Owner(), Owner()
    places = []
    for owner in (one, other, one):
        with owned_by(owner):
            pieces = workspace.floats(CPU, 5), workspace.arrival_counters(CPU, 5)
        places.append([piece.data_ptr() for piece in pieces])
    assert places[0] == places[2]
    assert not set(places[0]) & set(places[1])
    assert len(workspace._KEPT) == 2
    del owner, one, other
    gc.collect()
    assert len(workspace._KEPT) == 0


def test_nothing_is_made_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with owned_by(owner := Owner()):
        with pytest.raises(PlanError, match="can't be made while"):
            workspace.arrival_counters(gpu, 3)
        warm = torch.zeros(9, dtype=torch.int32)
        workspace._KEPT[owner][gpu, torch.int32] = warm
        assert workspace.arrival_counters(gpu, 9).data_ptr() == warm.data_ptr()
        with pytest.raises(PlanError, match="can't be made while"):
            workspace.arrival_counters(gpu, 10)
