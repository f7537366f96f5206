"""Memory of peers over a library that stands in for torch's, with host memory for cards'.

The kernels are interpreted, one rank after another with flags far ahead: that shows addresses and
sums, and nothing of the waiting, nor of torch's allocation and links, which need several cards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc_runtime.collectives import group as group_module
from glmc_runtime.collectives import over_peers, symmetric_memory
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.symmetric_memory import MULTICAST_OFF
from glmc_runtime.errors import GuardError
from tests.runtime.collectives.conftest import in_groups
from tests.support.interpreted import quick_interpreter

RANKS = 2
FAR = 1 << 40


class Library:
    """Cuts memory from larger allocations, at another place for each rank."""

    def __init__(self, multicast: bool = False, refuses: str = "") -> None:
        self._refuses = refuses
        self._met = threading.Barrier(RANKS)
        self._lock = threading.Lock()
        self._bases: dict[int, Tensor] = {}
        self._starts: dict[int, int] = {}
        self._SymmetricMemory = SimpleNamespace(has_multicast_support=lambda *_: multicast)

    def empty(self, length: int, **kind: Any) -> Tensor:
        if self._refuses:
            raise RuntimeError(f"{self._refuses}\nand where that was found")
        with self._lock:
            offset = 1024 * (1 + len(self._bases))
            base = torch.empty(length + offset, **kind).fill_(0xFF)
            memory = base[offset:]
            self._bases[memory.data_ptr()] = base
        return memory

    def rendezvous(self, memory: Tensor, process_group: Any) -> SimpleNamespace:
        self._starts[process_group.rank()] = self._bases[memory.data_ptr()].data_ptr()
        self._met.wait(20)
        return SimpleNamespace(buffer_ptrs=[self._starts[rank] for rank in range(RANKS)])


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Library], Library]:
    def given(library: Library) -> Library:
        monkeypatch.setattr(symmetric_memory, "_library", lambda: library)
        return library

    monkeypatch.setattr(group_module, "backend_of", lambda _: "nccl")
    for name in MULTICAST_OFF:
        monkeypatch.setenv(name, "as the user has it")
    return given


@pytest.mark.skipif(torch.cuda.is_available(), reason="bench.collectives runs the kernels there")
def test_kernels_find_the_memory_of_all_ranks(use: Callable[[Library], Library]) -> None:
    messages = [torch.randn(3001, generator=torch.Generator().manual_seed(at)) for at in range(2)]
    for name in ("peer_one_shot", "peer_two_shot"):
        parts = [message.clone() for message in messages]

        def run(group: Group, parts: list[Tensor] = parts, name: str = name) -> tuple[Any, Any]:
            thunk = group.all_reduce_of(parts[group.rank], name)
            return thunk, group.peer_memory(torch.device("cpu"))

        use(Library())
        made = in_groups(RANKS, run)
        first, second = (memory for _, memory in made)
        assert first.peers.addresses == second.peers.addresses
        assert first.peers.addresses[1] == second._memory.data_ptr()
        assert not first._memory.any() and not second._memory.any()
        with quick_interpreter():
            for _ in range(3):  # the last time finds what the others wrote the time before
                for part, message in zip(parts, messages, strict=True):
                    part.copy_(message)
                for _, memory in made:
                    flags = memory._memory.numel() - 2 * memory.peers.capacity
                    memory._memory[:flags].view(torch.int64).fill_(FAR)
                    memory.peers.state.zero_()
                for thunk, _ in made:
                    thunk()
        for part in parts:
            assert torch.equal(part, messages[0] + messages[1]), name


def test_multicast_is_off_before_anything_is_allocated(
    use: Callable[[Library], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = use(Library(multicast=True))
    monkeypatch.setattr(library, "empty", None)  # must not be called
    for refused in refusals("peer_one_shot"):
        assert refused.expected == "NVLink multicast off"
    assert MULTICAST_OFF.items() <= os.environ.items()


def refusals(name: str) -> list[GuardError]:
    """What each rank is told that asks for the all-reduce ``name``."""

    def run(group: Group) -> GuardError:
        with pytest.raises(GuardError, match="no memory of peers") as caught:
            group.all_reduce_of(torch.zeros(4), name)
        return caught.value

    return in_groups(RANKS, run)


def test_what_torch_refuses_is_said_in_its_words(use: Callable[[Library], Library]) -> None:
    use(Library(refuses="CUDA driver error: peer access is not supported"))
    for refused in refusals("peer_two_shot"):
        assert refused.found == "CUDA driver error: peer access is not supported"
        assert "library" in refused.remedy


def test_no_rank_waits_for_one_that_has_no_memory(use: Callable[[Library], Library]) -> None:
    library = use(Library())
    allocate = library.empty
    turns = iter(("first", "second"))

    def empty(length: int, **kind: Any) -> Tensor:
        if next(turns) == "second":
            raise RuntimeError("out of memory")
        return allocate(length, **kind)

    library.empty = empty  # type: ignore[method-assign]
    library.rendezvous = None  # type: ignore[assignment,method-assign]  # must not be called
    found = sorted(refused.found for refused in refusals("peer_one_shot"))
    assert found[1] == "out of memory" and found[0] in ("none on rank 0", "none on rank 1")


def test_a_torch_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "backend_of", lambda _: "nccl")
    monkeypatch.delattr("torch.distributed._symmetric_memory.rendezvous")
    for name in MULTICAST_OFF:
        monkeypatch.setenv(name, "")
    for refused in refusals("peer_one_shot"):
        assert "without rendezvous" in refused.found


def test_a_machine_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(over_peers, "import_module", absent)
    with pytest.raises(GuardError, match="Triton, which is missing or too old"):
        over_peers.peers_module()


def test_a_triton_whose_threads_would_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="3.4.0")
    monkeypatch.setattr(over_peers, "import_module", lambda name: old)
    with pytest.raises(GuardError, match="too old") as caught:
        over_peers.peers_module()
    assert (caught.value.expected, caught.value.found) == ("triton 3.5 or later", "3.4.0")


def test_torch_itself_has_what_is_used() -> None:
    assert symmetric_memory._library().empty
    assert not symmetric_memory._has_multicast(symmetric_memory._library(), torch.device("cpu"))
