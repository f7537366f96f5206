"""One-shot over shared memory: each rank puts its message down and adds those of all ranks.

It adds along the butterfly's tree. Messages larger than a slot go in pieces, which changes no
element's sums.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from glmc_runtime.collectives.shared_memory import SharedMemory
from glmc_runtime.collectives.tree import tree_sum
from glmc_runtime.collectives.wire import Thunk


def one_shot(memory: SharedMemory, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce of a flat, contiguous ``x`` in place."""
    return [_piece(memory, piece) for piece in x.split(memory.capacity // x.element_size())]


def _piece(memory: SharedMemory, x: Tensor) -> Thunk:
    puts = []
    sums = []
    for turn in (0, 1):
        slots = [memory.slot(turn, rank, x) for rank in range(memory.size)]
        puts.append(partial(slots[memory.rank].copy_, x))
        sums.append(tree_sum(slots, x, memory.room))
    meet, take_turn = memory.meet, memory.turn

    def run() -> None:
        turn = take_turn()
        puts[turn]()
        meet()
        for step in sums[turn]:
            step()

    return run
