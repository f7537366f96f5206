"""A Triton kernel that does nothing but read: the bandwidth that floors are computed with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl


@triton.jit
def _read(data, out, per_program, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Each program ors its own stretch, ``BLOCK`` words at a time, and stores one number."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * per_program
    places = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.int32)
    for begin in range(0, per_program, BLOCK):
        total = total | tl.load(data + start + begin + places)
    tl.store(out + program, tl.sum(total, 0))


def reader(data: torch.Tensor) -> Callable[[], None]:
    """Read ``data`` whole (its size a power of two of bytes, 16 KiB at least)."""
    words = data.view(torch.int32)
    programs = 4096
    out = torch.empty(programs, dtype=torch.int32, device=data.device)
    per_program = words.numel() // programs
    block = min(2048, per_program)

    def read() -> None:
        _read[(programs,)](words, out, per_program, BLOCK=block, num_warps=4, num_stages=4)

    return read
