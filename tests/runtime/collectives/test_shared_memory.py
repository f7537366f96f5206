"""Shared memory of ranks: the same bytes, no name anywhere, one error on all where it can't be."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch

from glmc_runtime.collectives import shared_memory
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.shared_memory import SharedMemory
from glmc_runtime.collectives.wire import Wire
from glmc_runtime.errors import GuardError, RankError
from tests.runtime.collectives.conftest import in_groups


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_meet_by_counters_and_by_messages(size: int, counting: bool) -> None:
    """Nobody goes on before the last has come."""

    def run(group: Group) -> list[int]:
        memory = SharedMemory(group.wire, 20.0, 64, counting)
        board = torch.zeros(8, dtype=torch.int64)
        seen = []
        for turn in range(10):
            slot = memory.turn()
            if group.rank == turn % size:
                time.sleep(0.002)
            memory.slot(slot, group.rank, board).fill_(turn + 1)
            memory.meet()
            seen += [int(memory.slot(slot, rank, board)[0]) for rank in range(size)]
        return seen

    expected = [turn + 1 for turn in range(10) for _ in range(size)]
    assert in_groups(size, run) == [expected] * size


def test_a_rank_that_does_not_come_is_named() -> None:
    def run(group: Group) -> str:
        memory = SharedMemory(group.wire, 0.2, 64, True)
        memory.meet()
        if group.rank == 1:
            return ""
        with pytest.raises(RankError, match="rank 1 does not answer") as caught:
            memory.meet()
        return caught.value.expected

    assert in_groups(2, run) == ["its message within 0.2 s", ""]


def test_memory_that_rank_0_can_not_make_is_refused_on_every_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(name: str) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", make)

    def run(group: Group) -> str:
        with pytest.raises(GuardError, match="can't share memory") as caught:
            group.all_reduce_of(torch.zeros(1), "one_shot")
        return caught.value.message

    of_rank_0, of_rank_1 = in_groups(2, run)
    assert "Too many open files" in of_rank_0 and "another rank can't" in of_rank_1


def test_memory_is_made_where_a_step_is_bound() -> None:
    """There no tensor may be changed by another thread, as gloo's is, which older torch refuses."""
    gathered: list[bool] = []

    def run(group: Group) -> None:
        class Watched:
            def allgather(self, rows: list[list[torch.Tensor]], own: list[torch.Tensor]) -> Any:
                gathered.extend(row.is_inference() for row in rows[0])
                return group.process_group.allgather(rows, own)

        with torch.inference_mode():
            SharedMemory(Wire(Watched(), group.rank, group.size), 20.0, 64, True)

    in_groups(2, run)
    assert gathered == [False] * 8


def test_strangers_are_refused_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = iter([1, 2, 1])
    monkeypatch.setattr(shared_memory, "_host", lambda: next(hosts))

    def run(group: Group) -> str:
        with pytest.raises(GuardError, match=r"can't share memory: rank [12] is in another host"):
            group.all_reduce_of(torch.zeros(1), "one_shot")
        return "refused"

    assert in_groups(3, run) == ["refused"] * 3


def test_a_system_without_anonymous_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")

    def run(group: Group) -> str:
        with pytest.raises(GuardError, match="has no anonymous files"):
            group.shared_memory()
        return "refused"

    assert in_groups(2, run) == ["refused"] * 2


def test_memory_that_can_not_be_mapped_is_refused_on_every_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped = shared_memory._map

    def fails(descriptor: int, *rest: int) -> object:
        if descriptor < 0:
            raise PermissionError("no access")
        return mapped(descriptor, *rest)

    monkeypatch.setattr(shared_memory, "_map", fails)

    def run(group: Group) -> str:
        with pytest.raises(GuardError, match="rank 1 can't map the memory of rank 0"):
            SharedMemory(Wire(group.process_group, group.rank, group.size), 1.0)
        return "refused"

    assert in_groups(2, run) == ["refused"] * 2
