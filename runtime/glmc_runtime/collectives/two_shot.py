"""Two-shot over shared memory: each rank adds its share of all messages, then reads the others'.

It adds along the butterfly's tree. Messages larger than a slot go in pieces, which changes no
element's sums.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor

from glmc_runtime.collectives.shared_memory import SharedMemory
from glmc_runtime.collectives.tree import tree_sum
from glmc_runtime.collectives.wire import Thunk


def two_shot(memory: SharedMemory, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""
    return [_piece(memory, piece) for piece in x.split(memory.capacity // x.element_size())]


def _piece(memory: SharedMemory, x: Tensor) -> Thunk:
    size, rank = memory.size, memory.rank
    bounds = [x.numel() * place // size for place in range(size + 1)]
    shares = list(pairwise(bounds))
    puts: list[Thunk] = []
    sums: list[list[Thunk]] = []
    reads: list[list[Thunk]] = []
    for turn in (0, 1):
        slots = [memory.slot(turn, one, x) for one in range(size)]
        start, end = shares[rank]
        own, slot = x[start:end], slots[rank][start:end]  # which nobody else reads before its sum
        puts.append(partial(slots[rank].copy_, x))
        sums.append(
            [
                *tree_sum([one[start:end] for one in slots], own, memory.room),
                partial(slot.copy_, own),
            ]
        )
        reads.append(
            [
                partial(x[first:last].copy_, slots[one][first:last])
                for one, (first, last) in enumerate(shares)
                if one != rank
            ]
        )
    meet, take_turn = memory.meet, memory.turn

    def run() -> None:
        turn = take_turn()
        puts[turn]()
        meet()
        for step in sums[turn]:
            step()
        meet()
        for step in reads[turn]:
            step()

    return run
