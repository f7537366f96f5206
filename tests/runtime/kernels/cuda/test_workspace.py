"""Memory that calls share: kept while it suffices, replaced when not, tickets zero."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import workspace

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_floats", {})
    monkeypatch.setattr(workspace, "_tickets", {})


def test_memory_is_shared_until_it_is_too_small() -> None:
    first, second = workspace.floats(CPU, 10), workspace.floats(CPU, 20)
    assert first.shape == (10,) and second.shape == (20,) and first.dtype == torch.float32
    assert first.data_ptr() == second.data_ptr()
    larger = workspace.floats(CPU, 1 << 15)
    assert larger.data_ptr() != first.data_ptr() and larger.numel() == 1 << 15
    first.fill_(3)
    assert (first == 3).all() and not larger.any()
    assert workspace.floats(CPU, 10).data_ptr() == larger.data_ptr()


def test_each_stream_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    for stream in (0, 7, 0):
        monkeypatch.setattr(workspace, "_place", lambda device, stream=stream: (device, stream))
        places.append((workspace.floats(CPU, 5).data_ptr(), workspace.tickets(CPU, 5).data_ptr()))
    assert places[0] == places[2]
    assert not set(places[0]) & set(places[1])


def test_nothing_is_made_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(workspace, "_place", lambda device: (device, 7))
    with pytest.raises(PlanError, match="can't be made while"):
        workspace.tickets(gpu, 3)
    workspace._tickets[gpu, 0] = torch.zeros(9, dtype=torch.int32)  # of the stream of warm-up
    assert workspace.tickets(gpu, 9).data_ptr() == workspace._tickets[gpu, 0].data_ptr()
    with pytest.raises(PlanError, match="can't be made while"):
        workspace.tickets(gpu, 10)


def test_tickets_are_zero_integers_of_their_own() -> None:
    tickets = workspace.tickets(CPU, 5)
    assert tickets.dtype == torch.int32 and not tickets.any()
    assert tickets.data_ptr() != workspace.floats(CPU, 5).data_ptr()
    assert not workspace.tickets(CPU, 1 << 16).any()
