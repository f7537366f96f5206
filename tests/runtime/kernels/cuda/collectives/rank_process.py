"""A rank in a process of its own: interpreted kernels that really wait for those of the others.

``python -m tests.runtime.kernels.cuda.collectives.rank_process RANK RANKS USES FILE``
"""

from __future__ import annotations

import random
import sys
import time

import torch

from glmc_runtime.kernels.cuda.collectives.one_shot import one_shot
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory, memory_bytes, new_state
from glmc_runtime.kernels.cuda.collectives.two_shot import two_shot
from tests.support.interpreted import quick_interpreter

PROGRAMS, CAPACITY = 3, 1 << 14
SIZES = (1, 2049, 700, 9001)
START = (1 << 32) - 4
"""Uses before: more than 32 bits hold, on the way."""


def file_bytes(ranks: int) -> int:
    return ranks * memory_bytes(ranks, PROGRAMS, CAPACITY)


def main() -> None:
    rank, ranks, uses = map(int, sys.argv[1:4])
    memory = torch.from_file(sys.argv[4], shared=True, size=file_bytes(ranks), dtype=torch.uint8)
    addresses = tuple(part.data_ptr() for part in memory.chunk(ranks))
    state = new_state(torch.device("cpu"))
    state[0] = START
    peer = PeerMemory(rank, addresses, state, PROGRAMS, CAPACITY)
    chance = random.Random(rank)
    for use in range(uses):
        size, make = SIZES[use % len(SIZES)], (one_shot, two_shot)[use // 2 % 2]
        parts = [message(one, use, size) for one in range(ranks)]
        time.sleep(chance.choice((0, 0, 0.03)))
        for step in make(peer, parts[rank]):
            step()
        total = parts[0] if rank else message(0, use, size)
        for one in range(1, ranks):
            total = total + message(one, use, size)
        if not torch.equal(parts[rank], total):
            sys.exit(f"rank {rank}: the sum of use {use} is wrong")
    print("proved")


def message(rank: int, use: int, size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(100 * use + rank))


if __name__ == "__main__":
    with quick_interpreter():
        main()
