"""Races of the all-reduces over the memory of peers: captured graphs, replayed with random delays.

A graph of a rank has several calls, of one algorithm, dtype and size after another. Each call
fills the message with numbers of its own, may sleep, adds, and checks on the device. Replays are
queued without waiting for the host; slots are poisoned between rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.gpu.numbered_messages import check, fill
from bench.gpu.virtual_group import Thunk, VirtualGroup
from bench.gpu.virtual_values import ALGORITHMS, DTYPES, HangError
from glmc_runtime.kernels.cuda.collectives.all_reduce_add_rms_norm import all_reduce_add_rms_norm
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory

SIZES = (1, 63, 1000, 2048, 5120, 20_480, 40_961, 163_840, 1_048_576)
GRAPHS, CALLS, QUEUED = 5, 12, 16
ROUNDS = 2
LIMIT = 20.0
Maker = Callable[[PeerMemory, Tensor, Sequence[Tensor]], list[Thunk]]
"""Of the steps that add a message; they may have three more tensors like it."""
_WIDTH = 1024
_SHORT, _LONG = 20_000, 400_000
"""Cycles of a delay within a graph, and before one: up to 10 and up to 200 us."""


@dataclass
class Counts:
    """What was run, and what was wrong: elements."""

    calls: int = 0
    replays: int = 0
    rounds: int = 0
    faults: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Call:
    algorithm: str
    dtype: torch.dtype
    size: int
    offset: int
    delays: tuple[int, ...]
    """Cycles that each rank sleeps before it adds."""


class Races:
    """The graphs of all ranks of a group; its capture needs everything to be at rest."""

    def __init__(
        self, group: VirtualGroup, algorithms: Mapping[str, Maker], graphs: int = GRAPHS
    ) -> None:
        self._group, self._algorithms, self._random = group, algorithms, random.Random(1)
        device, ranks = group.device, range(group.size)
        length = 4 * (max(SIZES) + 16)
        self._memory = [torch.empty(length, dtype=torch.uint8, device=device) for _ in ranks]
        self._more = [
            torch.zeros((3, length), dtype=torch.uint8, device=device) for _ in ranks
        ]  # of the fused kernel: residual, total, norm
        self._uses = [torch.zeros(1, dtype=torch.int32, device=device) for _ in ranks]
        self._faults = [torch.zeros(2, dtype=torch.int32, device=device) for _ in ranks]
        lists = [[self._call() for _ in range(CALLS)] for _ in range(graphs)]
        thunks = [[self._thunk(rank, calls) for rank in ranks] for calls in lists]
        for each in thunks:
            group.warm([[thunk] for thunk in each])
        self._graphs = [
            [self._captured(rank, thunk) for rank, thunk in enumerate(each)] for each in thunks
        ]
        for each in self._graphs:
            group.warm([[replay] for replay in each])
        self._clear()

    def run(self, seconds: float) -> Counts:
        """Rounds for so many seconds, two at least, until one has faults; raises
        :class:`HangError` where ranks wait for ever."""
        counts, end = Counts(), time.monotonic() + seconds
        self._clear()
        while counts.rounds < ROUNDS or time.monotonic() < end:
            self._round(counts)
            if counts.faults:
                break
        return counts

    def _round(self, counts: Counts) -> None:
        group, chance = self._group, self._random
        group.poison()
        for _ in range(QUEUED):
            graphs = chance.choice(self._graphs)
            for rank in chance.sample(range(group.size), group.size):
                with group.on(rank):
                    if chance.random() < 0.5:
                        _sleep(chance.randrange(_LONG), group.device)
                    graphs[rank]()
        if not group.ended(LIMIT):
            raise HangError(f"round {counts.rounds} of graphs, uses {group.uses()}")
        counts.rounds += 1
        counts.replays += QUEUED
        counts.calls += QUEUED * CALLS
        for rank, faults in enumerate(self._faults):
            number, use = faults.tolist()
            if number:
                counts.faults += number
                counts.fault = f"rank {rank}, last in use {use}"

    def _clear(self) -> None:
        for tensor in (*self._uses, *self._faults):
            tensor.zero_()
        self._group.wait_all()

    def _call(self) -> Call:
        chance = self._random
        algorithm = chance.choice(list(self._algorithms))
        size = chance.choice(SIZES)
        if algorithm == FUSED:
            size = max(size // _WIDTH, 1) * _WIDTH
        delays = tuple(
            chance.randrange(_SHORT) if chance.random() < 0.3 else 0
            for _ in range(self._group.size)
        )
        offset = chance.choice((0, 1)) if size % 2 else 0
        return Call(algorithm, chance.choice(DTYPES), size, offset, delays)

    def _thunk(self, rank: int, calls: list[Call]) -> Thunk:
        parts = [part for call in calls for part in self._parts(rank, call)]

        def run() -> None:
            for part in parts:
                part()

        return run

    def _parts(self, rank: int, call: Call) -> list[Thunk]:
        use, faults = self._uses[rank], self._faults[rank]
        x = _view(self._memory[rank], call)
        more = [_view(one, call) for one in self._more[rank]]
        steps = self._algorithms[call.algorithm](self._group.peers[rank], x, more)
        checked = [x, more[1]] if call.algorithm == FUSED else [x]
        return [
            partial(use.add_, 1),
            partial(fill, x, use, rank),
            partial(_sleep, call.delays[rank], self._group.device),
            *steps,
            *(partial(check, one, use, faults, self._group.size) for one in checked),
        ]

    def _captured(self, rank: int, thunk: Thunk) -> Thunk:
        """A replay of the thunk as a device graph; without a GPU itself."""
        if self._group.device.type != "cuda":
            return thunk
        graph = torch.cuda.CUDAGraph()
        with self._group.on(rank):
            graph.capture_begin()
            thunk()
            graph.capture_end()
        return graph.replay


def _view(memory: Tensor, call: Call) -> Tensor:
    return memory.view(call.dtype)[call.offset : call.offset + call.size]


def _fused(peer: PeerMemory, x: Tensor, more: Sequence[Tensor]) -> list[Thunk]:
    """With a residual of zeros, so that ``total`` is the sum of all ranks, too."""
    x, residual, total, out = (one.view(-1, _WIDTH) for one in (x, *more))
    arguments = {"x": x, "residual": residual, "weight": residual[0], "eps": 1e-5}
    return all_reduce_add_rms_norm(peer, {**arguments, "out": out, "total": total})


def plain(make: Callable[[PeerMemory, Tensor], list[Thunk]]) -> Maker:
    return lambda peer, x, _: make(peer, x)


FUSED = "fused"
PROVED: Mapping[str, Maker] = {
    FUSED: _fused,
    **{name: plain(make) for name, make in ALGORITHMS.items()},
}


def _sleep(cycles: int, device: torch.device) -> None:
    if cycles and device.type == "cuda":
        torch.cuda._sleep(cycles)
