"""What a step costs on each medium of a group, with all ranks at work: latency and bandwidth."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from glmc_runtime.collectives.bands import fitted
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.measure import Case, agreed, measure, zeros
from glmc_runtime.collectives.wire import Thunk
from glmc_runtime.format.algorithms import MEMORY, MESSAGES, Link

_SIZES = tuple(1 << power for power in range(10, 23, 2))


def measure_links(
    group: Group, device: torch.device, media: set[str], seconds: float
) -> tuple[Link, ...]:
    """A collective call: of ``media``, the links that the textbook's costs are made of."""
    thunks: dict[Case, Thunk] = {}
    for size in _SIZES:
        sent, arrived = (zeros(size, torch.float32, device) for _ in range(2))
        thunks[MESSAGES, size] = _swap(group, sent, arrived)
        if MEMORY in media:
            thunks[MEMORY, size] = _copy(group, sent, arrived)
    times = agreed(group, measure(group, thunks, seconds, device), device)
    copied = {MESSAGES: 1, MEMORY: 2}
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


def _swap(group: Group, sent: Tensor, arrived: Tensor) -> Thunk:
    """Neighbours exchange messages, as in a step of the butterfly; an odd last rank rests."""
    partner = group.rank ^ 1
    pairs = [partner] if partner < group.size else []
    return group.wire.exchange([(sent, one) for one in pairs], [(arrived, one) for one in pairs])


def _copy(group: Group, sent: Tensor, arrived: Tensor) -> Thunk:
    """Each rank copies a message into shared memory, meets the others and copies one out."""
    memory = group.shared_memory()
    capacity, neighbour = memory.capacity // sent.element_size(), (group.rank + 1) % group.size
    pieces = [
        [
            (
                partial(memory.slot(turn, group.rank, given).copy_, given),
                partial(taken.copy_, memory.slot(turn, neighbour, taken)),
            )
            for turn in (0, 1)
        ]
        for given, taken in zip(sent.split(capacity), arrived.split(capacity), strict=True)
    ]

    def step() -> None:
        for by_turn in pieces:
            put, take = by_turn[memory.turn()]
            put()
            memory.meet()
            take()

    return step
