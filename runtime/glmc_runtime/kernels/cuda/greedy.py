"""The likeliest token of each row of logits.

A row is cut into chunks, one per program; the last program of a row to arrive takes the largest of
the chunks' maxima, and of equals the one that comes first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.linear.tiles import is_last_program
from glmc_runtime.kernels.schema import schema, tensor, written

_BLOCK = 4096
_BEHIND = tl.constexpr(2**31 - 1)  # more than any id


@triton.jit
def greedy_kernel(
    logits,
    out,
    maxima,
    places,
    counters,
    VOCABULARY: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """logits [rows, VOCABULARY], out int64 [rows]; scratch maxima float32 and places int32 [rows,
    CHUNKS], counters [rows]."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    token = chunk * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    start = logits + row.to(tl.int64) * VOCABULARY
    value = tl.load(start + token, mask=token < VOCABULARY, other=float("-inf")).to(tl.float32)
    value = tl.where(value == value, value, float("inf"))
    largest = tl.max(value, axis=0)
    tl.store(maxima + row * CHUNKS + chunk, largest)
    tl.store(places + row * CHUNKS + chunk, tl.min(tl.where(value == largest, token, _BEHIND), 0))
    if is_last_program(counters, row, CHUNKS):
        lane = tl.arange(0, CHUNKS_PADDED)
        inside = lane < CHUNKS
        top = tl.load(
            maxima + row * CHUNKS + lane, mask=inside, other=float("-inf"), cache_modifier=".cg"
        )
        place = tl.load(
            places + row * CHUNKS + lane, mask=inside, other=_BEHIND, cache_modifier=".cg"
        )
        best = tl.max(top, axis=0)
        first = tl.min(tl.where(top == best, place, _BEHIND), axis=0)
        finite = (best > float("-inf")) & (best < float("inf"))
        tl.store(out + row, tl.where(finite, first, -1).to(tl.int64))


@register(
    "cuda.greedy",
    schema(
        tensor("logits", "rows vocabulary"),
        written("out", "rows", "int64", leaves="greedy"),
    ),
)
def greedy(arguments: dict[str, Any]) -> Thunk:
    """logits [rows, vocabulary], out int64 [rows]: the lowest id of the largest logit, or -1 where
    the largest is not finite or a logit is NaN."""
    logits, out = arguments["logits"], arguments["out"]
    rows, vocabulary = logits.shape
    require_dtype("logits", logits)
    require_shape("logits", logits, (rows, vocabulary))
    require_dtype("out", out, torch.int64)
    require_shape("out", out, (rows,))
    require_one_device(logits, out)
    block = min(_BLOCK, power_of_two(vocabulary))
    chunks = triton.cdiv(vocabulary, block)
    scratch = workspace.floats(logits.device, 2 * rows * chunks)
    return partial(
        launch,
        greedy_kernel,
        (rows, chunks),
        logits,
        out,
        scratch[: rows * chunks],
        scratch[rows * chunks :].view(torch.int32),
        workspace.arrival_counters(logits.device, rows),
        VOCABULARY=vocabulary,
        CHUNKS=chunks,
        CHUNKS_PADDED=power_of_two(chunks),
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 8),
        pdl=pdl_enabled(logits.device),
    )
