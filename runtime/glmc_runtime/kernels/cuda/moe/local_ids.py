"""Ids of experts as the places of one rank's own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.launch import launch
from glmc_runtime.kernels.cuda.moe.common import Experts

_BLOCK = 256


@triton.jit(do_not_specialize=["pairs"])
def local_ids_kernel(
    ids, first, local_ids, pairs, LOCAL: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """local_ids [pairs]: the place of each id among LOCAL experts from ``first`` on, or LOCAL."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(ids + pair, mask=pair < pairs, other=0) - tl.load(first)
    here = (place >= 0) & (place < LOCAL)
    tl.store(local_ids + pair, tl.where(here, place, LOCAL), mask=pair < pairs)


def bind_local_ids(call: Experts, ids: torch.Tensor, first: torch.Tensor) -> Thunk:
    """The launch that writes the call's ids, from those of the model's experts."""
    grid = (triton.cdiv(call.pairs, _BLOCK),)

    def run() -> None:
        launch(
            local_ids_kernel,
            grid,
            ids,
            first,
            call.ids,
            call.pairs,
            LOCAL=call.local,
            BLOCK=_BLOCK,
            pdl=call.pdl,
            num_warps=4,
        )

    return run
