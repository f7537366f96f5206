"""One-shot all-reduce, residual addition and RMSNorm in one kernel, a row in registers.

The sum is rounded where the all-reduce rounds it, and the rest is that of ``cuda.add_rms_norm``
with its block and warps: the bits are those of the two calls. Saves a launch, and the way of the
sum through memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import (
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda.collectives.barrier import barrier, count_use, slot_of
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory, require_slots
from glmc_runtime.kernels.cuda.launch import launch
from glmc_runtime.kernels.cuda.norms import normalized, row_meta


@triton.jit(do_not_specialize=["rank", "rows"])
def all_reduce_add_rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    total,
    peers,
    own,
    state,
    rank,
    rows,
    eps,
    START: tl.constexpr,
    CAPACITY: tl.constexpr,
    PROGRAMS: tl.constexpr,
    RANKS: tl.constexpr,
    WIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    dtype = x.dtype.element_ty
    scale = tl.load(weight + column, mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first, step = tl.program_id(0), tl.num_programs(0)
    epoch = tl.load(state) + 1
    slot = slot_of(own, x, epoch, START, CAPACITY)
    for at in range(first, rows, step):
        place = at * WIDTH + column
        tl.store(slot + place, tl.load(x + place, mask=inside, other=0.0), mask=inside)
    barrier(peers, own, rank, epoch, 0, PROGRAMS, RANKS, WIDE)
    for at in range(first, rows, step):
        place = at * WIDTH + column
        theirs = slot_of(peers[0], x, epoch, START, CAPACITY)
        added = tl.load(theirs + place, mask=inside, other=0.0).to(tl.float32)
        for peer in tl.static_range(1, RANKS):
            theirs = slot_of(peers[peer], x, epoch, START, CAPACITY)
            added += tl.load(theirs + place, mask=inside, other=0.0).to(tl.float32)
        added = added.to(dtype)
        row = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        row = (row + added.to(tl.float32)).to(dtype).to(tl.float32)
        result = normalized(row, scale, eps, WIDTH)
        tl.store(x + place, added, mask=inside)
        tl.store(total + place, row.to(dtype), mask=inside)
        tl.store(out + place, result.to(dtype), mask=inside)
    count_use(state, epoch)


def all_reduce_add_rms_norm(memory: PeerMemory, arguments: dict[str, Any]) -> list[Thunk]:
    """The steps by which ``x`` [rows, width] becomes the sum of all ranks' ``x``, then ``total =
    residual + x`` and ``out = rms_norm(total, weight, eps)``; ``total`` may be ``residual``."""
    x, weight = arguments["x"], arguments["weight"]
    residual, out, total = (arguments[name] for name in ("residual", "out", "total"))
    require_slots(memory.capacity, 16)
    require_dtype("x", x)
    require_shape("x", x, (x.shape[0], weight.shape[0]))
    for name, one in (("residual", residual), ("out", out), ("total", total)):
        require_like(name, one, x)
    require_shape("weight", weight, (x.shape[1],))
    require_dtype("weight", weight, x.dtype)
    require_one_device(x, weight, residual, out, total, memory.state)
    rows = memory.capacity // (x.shape[1] * x.element_size())
    if not rows:
        raise PlanError(
            "a slot of the memory of peers is smaller than a row",
            expected=f"{x.shape[1] * x.element_size()} bytes",
            found=str(memory.capacity),
        )
    constants = memory.constants() | row_meta(x)  # of all rows, which decide on the warps
    eps = float(arguments["eps"])
    pieces = zip(*(one.split(rows) for one in (x, residual, out, total)), strict=True)
    return [_piece(memory, *piece, weight=weight, eps=eps, constants=constants) for piece in pieces]


def _piece(
    memory: PeerMemory,
    x: Tensor,
    residual: Tensor,
    out: Tensor,
    total: Tensor,
    *,
    weight: Tensor,
    eps: float,
    constants: dict[str, Any],
) -> Thunk:
    return partial(
        launch,
        all_reduce_add_rms_norm_kernel,
        (min(x.shape[0], memory.programs),),
        x,
        residual,
        weight,
        out,
        total,
        *memory.arguments(),
        x.shape[0],
        eps,
        **constants,
    )
