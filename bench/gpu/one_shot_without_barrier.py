"""The one-shot all-reduce without its barrier: a control, which must show faults."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bench.gpu.virtual_group import Thunk
from glmc_runtime.kernels.cuda.collectives.barrier import count_use, slot_of
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory
from glmc_runtime.kernels.cuda.collectives.tiles import launches, put, total_of


@triton.jit(do_not_specialize=["rank"])  # type: ignore[untyped-decorator]
def without_barrier_kernel(  # type: ignore[no-untyped-def]
    x,
    peers,
    own,
    state,
    rank,
    size,
    START: tl.constexpr,  # noqa: N803
    CAPACITY: tl.constexpr,  # noqa: N803
    PROGRAMS: tl.constexpr,  # noqa: N803
    RANKS: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    PDL: tl.constexpr,  # noqa: N803
):
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first, step, tiles = tl.program_id(0), tl.num_programs(0), tl.cdiv(size, BLOCK)
    epoch = tl.load(state) + 1
    put(x, slot_of(own, x, epoch, START, CAPACITY), size, first, step, tiles, BLOCK)
    for tile in range(first, tiles, step):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        total = total_of(peers, x, epoch, place, START, CAPACITY, RANKS)
        tl.store(x + place, total.to(x.dtype.element_ty), mask=place < size)
    count_use(state, epoch)


def without_barrier(memory: PeerMemory, x: Tensor) -> list[Thunk]:
    return launches(memory, without_barrier_kernel, x)
