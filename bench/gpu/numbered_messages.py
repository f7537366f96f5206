"""Messages that say who sent them in which use: whole numbers that a check makes anew.

Each use has other numbers, so that a rank that adds what was left from the use before is seen.
The numbers have few bits, so that their sums are exact in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def number(use, rank, place):  # type: ignore[no-untyped-def]
    """Of an element: mixed from all three, in [-128, 128)."""
    sender = (use * 64 + rank).to(tl.int64)
    mixed = (place.to(tl.int64) * 2654435761 + sender * 2246822519) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 739982445) & 0xFFFFFFFF
    return ((mixed >> 24) - 128).to(tl.float32)


@triton.jit(do_not_specialize=["x", "rank", "size"])  # type: ignore[untyped-decorator]
def fill_kernel(x, use, rank, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = number(tl.load(use), rank, place)
    tl.store(x + place, value.to(x.dtype.element_ty), mask=place < size)


@triton.jit(do_not_specialize=["x", "size"])  # type: ignore[untyped-decorator]
def check_kernel(x, use, faults, size, RANKS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    this = tl.load(use)
    total = number(this, 0, place)
    for rank in tl.static_range(1, RANKS):
        total += number(this, rank, place)
    found = tl.load(x + place, mask=place < size, other=0.0)
    wrong = (place < size) & (found != total.to(x.dtype.element_ty))
    count = tl.sum(wrong.to(tl.int32), axis=0)
    if count > 0:
        tl.atomic_add(faults, count)
        tl.store(faults + 1, this)


def fill(x: Tensor, use: Tensor, rank: int) -> None:
    """Write the numbers of a rank in the use that ``use`` [1] says to a flat ``x``."""
    fill_kernel[(triton.cdiv(x.numel(), _BLOCK),)](x, use, rank, x.numel(), BLOCK=_BLOCK)


def check(x: Tensor, use: Tensor, faults: Tensor, ranks: int) -> None:
    """Add to ``faults[0]`` how many elements of ``x`` are not the sums of all ranks' numbers, and
    write the use to ``faults[1]`` where some are not."""
    grid = (triton.cdiv(x.numel(), _BLOCK),)
    check_kernel[grid](x, use, faults, x.numel(), RANKS=ranks, BLOCK=_BLOCK)
