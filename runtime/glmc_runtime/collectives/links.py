"""What a step costs on each medium of a group, with all ranks at work: latency and bandwidth."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from glmc_runtime.collectives.bands import fitted
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.measure import Case, agreed, bound, measure, zeros
from glmc_runtime.collectives.wire import Thunk, add_in_rank_order
from glmc_runtime.format.algorithms import ALGORITHMS, MEMORY, MESSAGES, PEERS, Link

_SIZES = tuple(1 << power for power in range(10, 23, 2))
_ONE_STEP = "peer_one_shot"


def measure_links(
    group: Group, device: torch.device, dtype: torch.dtype, media: set[str], seconds: float
) -> tuple[Link, ...]:
    """A collective call: of ``media``, the links that the textbook's costs are made of. A step is a
    message with its addition, or a copy and an addition in memory; over that of peers all of the
    one-shot all-reduce, which has one."""
    thunks: dict[Case, Thunk] = {}
    for size in _SIZES:
        x, arrived = (zeros(size, dtype, device) for _ in range(2))
        thunks[MESSAGES, size] = _swap(group, x, arrived)
        if MEMORY in media:
            thunks[MEMORY, size] = _copy(group, x)
        if PEERS in media:
            thunks[PEERS, size] = bound(group, x, _ONE_STEP, (_ONE_STEP,))
    times = agreed(group, measure(group, thunks, seconds, device), device)
    copied = {MESSAGES: 1.0, MEMORY: 2.0, PEERS: ALGORITHMS[_ONE_STEP].volume(group.size)}
    found = (
        fitted(
            medium,
            [copied[medium] * size for size in _SIZES],
            [times[medium, size] for size in _SIZES],
        )
        for medium in copied
        if medium in media
    )
    return tuple(
        Link(link.medium, rounded(link.latency), rounded(link.bandwidth)) for link in found
    )


def rounded(value: float) -> float:
    """To three digits: more are noise."""
    return float(f"{value:.3g}")


def _swap(group: Group, x: Tensor, arrived: Tensor) -> Thunk:
    """Neighbours exchange and add messages, a step of the butterfly; an odd last rank rests."""
    partner = group.rank ^ 1
    pairs = [partner] if partner < group.size else []
    exchange = group.wire.exchange([(x, one) for one in pairs], [(arrived, one) for one in pairs])
    add = add_in_rank_order(x, arrived, group.rank < partner, x)

    def step() -> None:
        exchange()
        add()

    return step


def _copy(group: Group, x: Tensor) -> Thunk:
    """Each rank copies its message into shared memory, meets the others and adds a neighbour's."""
    memory = group.shared_memory()
    capacity, neighbour = memory.capacity // x.element_size(), (group.rank + 1) % group.size
    pieces = [
        [
            (
                partial(memory.slot(turn, group.rank, piece).copy_, piece),
                partial(torch.add, piece, memory.slot(turn, neighbour, piece), out=piece),
            )
            for turn in (0, 1)
        ]
        for piece in x.split(capacity)
    ]

    def step() -> None:
        for by_turn in pieces:
            put, add = by_turn[memory.turn()]
            put()
            memory.meet()
            add()

    return step
