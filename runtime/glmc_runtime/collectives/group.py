"""A group of ranks: collectives that are chosen when they are bound, by the table and the bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.collectives.butterfly import butterfly
from glmc_runtime.collectives.halving_doubling import halving_doubling
from glmc_runtime.collectives.library import library_all_reduce
from glmc_runtime.collectives.one_shot import one_shot
from glmc_runtime.collectives.over_peers import over_peers
from glmc_runtime.collectives.ring import ring
from glmc_runtime.collectives.shared_memory import SharedMemory
from glmc_runtime.collectives.symmetric_memory import SymmetricMemory
from glmc_runtime.collectives.tree import tree_sum
from glmc_runtime.collectives.two_shot import two_shot
from glmc_runtime.collectives.wire import Thunk, Wire, meeting
from glmc_runtime.errors import GuardError, PlanError
from glmc_runtime.format.algorithms import ALGORITHMS, DTYPES, LIBRARY, PEERS, on_cards
from glmc_runtime.format.collectives import ONE_HOST, AlgorithmTable, GroupKey, default_table

PATIENCE = 300.0
"""Seconds that a rank waits for another in shared memory."""
_ON_MESSAGES: dict[str, Callable[[Wire, Tensor], list[Thunk]]] = {
    "library": library_all_reduce,
    "butterfly": butterfly,
    "halving_doubling": halving_doubling,
    "ring": ring,
}
_IN_SHARED_MEMORY: dict[str, Callable[[SharedMemory, Tensor], list[Thunk]]] = {
    "one_shot": one_shot,
    "two_shot": two_shot,
}


class Group:
    """The ranks of a process group of ``torch.distributed``.

    ``process_group`` is any, of gloo or nccl, and stays the caller's; ``rank`` and ``size`` are
    those in it. Without a ``table`` the library does every all-reduce. All ranks make and call
    the same collectives in the same order; a thunk may be called again and again, and has made
    its work memory before.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        process_group: Any,
        table: AlgorithmTable | None = None,
        *,
        topology: str = ONE_HOST,
        patience: float = PATIENCE,
    ) -> None:
        self.rank = rank
        self.size = size
        self.process_group = process_group
        self.topology = topology
        self.table = default_table("cuda", size, topology) if table is None else table
        self.wire = Wire(process_group, rank, size)
        self._patience = patience
        self._memory: SharedMemory | None = None
        self._peers: SymmetricMemory | None = None
        self._barrier: Thunk | None = None

    def algorithm_of(self, x: Tensor) -> str:
        """The table's choice for a message; raises :class:`PlanError` where it has none.

        On a card the library does the work, but for kernels over the memory of peers that the
        table names: messages between pairs cost more than 100 us there, whatever they carry, and
        BKCL chooses by variables that it has read.
        """
        size = x.numel() * x.element_size()
        if x.device.type != "cpu":
            key = GroupKey(self.size, self.topology, str(x.dtype).removeprefix("torch."))
            named = (one.algorithm(size) for one in self.table.entries if one.key == key)
            return next(filter(on_cards, named), LIBRARY)
        key = GroupKey(self.size, self.topology, _dtype_name(x))
        return self.table.entry(key).algorithm(size)

    def all_reduce(self, x: Tensor) -> None:
        """Add ``x`` over all ranks in place; all get the same bits."""
        self.all_reduce_of(x)()

    def all_reduce_of(self, x: Tensor, algorithm: str | None = None) -> Thunk:
        """A thunk that adds ``x`` (contiguous) over all ranks in place, by the table's choice for
        its bytes or by the ``algorithm`` named. The first one of a group in shared memory, or
        over that of peers, makes it, which is a collective call itself."""
        flat = _flat("x", x)
        name = self.algorithm_of(x) if algorithm is None else algorithm
        if name not in ALGORITHMS:
            raise PlanError(
                f"there is no all-reduce '{name}'", expected=", ".join(ALGORITHMS), found=name
            )
        if self.size == 1 or not flat.numel():
            return _nothing
        if name in _IN_SHARED_MEMORY:
            if x.device.type != "cpu":
                raise PlanError(
                    f"the all-reduce '{name}' is in host memory, and the message is not",
                    found=str(x.device),
                    remedy="take a table that was made for this target",
                )
            return _in_order(_IN_SHARED_MEMORY[name](self.shared_memory(), flat))
        if ALGORITHMS[name].medium == PEERS:
            _dtype_name(x)
            return _in_order(over_peers(name, self.peer_memory(x.device).peers, flat))
        return _in_order(_ON_MESSAGES[name](self.wire, flat))

    def all_gather_of(self, x: Tensor, parts: Tensor) -> Thunk:
        """A thunk that writes the ``x`` of every rank to ``parts`` [ranks, \\*x.shape]."""
        own, room = _flat("x", x), _flat("parts", parts)
        _require_shape("parts", parts, (self.size, *x.shape), x)
        if self.size == 1:
            return partial(room.copy_, own)
        if backend_of(self.process_group) == "gloo":  # whose call for one tensor came late
            gather, rows, sent = self.process_group.allgather, [list(parts.unbind())], [x]
            return lambda: gather(rows, sent).wait()
        call = self.process_group._allgather_base
        return lambda: call(room, own).wait()

    def reduce_scatter_of(self, x: Tensor, out: Tensor) -> Thunk:
        """A thunk that adds ``x`` [ranks, ...] over all ranks and writes the sum of row ``rank``
        to ``out``: on host memory along the butterfly's tree, on a device as the library does."""
        rows, room = _flat("x", x), _flat("out", out)
        _require_shape("x", x, (self.size, *out.shape), out)
        if x.device.type != "cpu":
            call = self.process_group._reduce_scatter_base
            return lambda: call(room, rows).wait()
        arrived = torch.empty_like(x)
        parts = [x[rank] if rank == self.rank else arrived[rank] for rank in range(self.size)]
        others = [rank for rank in range(self.size) if rank != self.rank]
        exchange = self.wire.exchange(
            [(x[rank], rank) for rank in others], [(arrived[rank], rank) for rank in others]
        )
        return _in_order([exchange, *tree_sum(parts, out)])

    def meet(self) -> None:
        """Return when all ranks have called this, at nearly the same time: in shared memory where
        there is some."""
        if self._memory is not None:
            self._memory.meet()
        elif self.size > 1:
            if self._barrier is None:
                self._barrier = self._make_barrier()
            self._barrier()

    def close(self) -> None:
        """Let go of shared memory and of that of peers; the process group is its maker's."""
        self._memory = self._peers = None

    def _make_barrier(self) -> Thunk:
        """On host memory by messages; of another backend the library's."""
        if backend_of(self.process_group) == "gloo":
            return meeting(self.wire)
        return lambda: self.process_group.barrier().wait()

    def shared_memory(self) -> SharedMemory:
        """That of this group; making it is a collective call. Raises :class:`GuardError` on all
        ranks where they can't have any."""
        if self._memory is None:
            self._memory = SharedMemory(self.wire, self._patience)
        return self._memory

    def peer_memory(self, device: torch.device) -> SymmetricMemory:
        """That of this group's cards; making it is a collective call. Raises :class:`GuardError`
        where they can't have any."""
        if self._peers is None:
            backend = backend_of(self.process_group)
            if backend != "nccl":
                raise GuardError(
                    "the memory of peers is that of cards, and this group has none",
                    expected="a group over nccl",
                    found=f"a group over {backend}",
                    remedy="take a table that was made for this target, or --backend nccl",
                )
            self._peers = SymmetricMemory(self.wire, device)
        return self._peers


def backend_of(process_group: Any) -> str:
    """``gloo`` or ``nccl``, of a process group by itself or of one that chooses by device."""
    name = getattr(process_group, "name", None)
    return "nccl" if callable(name) and "nccl" in str(name()).lower() else "gloo"


def _flat(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_contiguous():
        raise PlanError(
            f"'{name}' of a collective is not contiguous", found=f"strides {tensor.stride()}"
        )
    return tensor.view(-1)


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != like.dtype:
        raise PlanError(
            f"'{name}' of a collective has the wrong shape or dtype",
            expected=f"{like.dtype} {list(shape)}",
            found=f"{tensor.dtype} {list(tensor.shape)}",
        )


def _dtype_name(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise PlanError(
            "an all-reduce has no version for the dtype",
            expected=" or ".join(DTYPES),
            found=name,
        )
    return name


def _in_order(steps: list[Thunk]) -> Thunk:
    if len(steps) == 1:
        return steps[0]

    def run() -> None:
        for step in steps:
            step()

    return run


def _nothing() -> None:
    """The all-reduce of one rank, or of nothing."""
