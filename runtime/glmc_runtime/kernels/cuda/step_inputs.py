"""The step inputs of a phase from the tensors of an outer engine, in one launch.

The kernel reads where an engine's tensors are from memory on the device, the source table: their
addresses, whether they are int32 or int64, and how many rows are real. So it may be the first node
of a captured graph, and a step whose tensors lie where those of the step before lay asks nothing of
the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda.launch import launch

SOURCES = (
    "token_ids",
    "positions",
    "slot_mapping",
    "context_lengths",
    "cu_seqlens_q",
    "block_tables",
)
"""The tensors of an engine's step, in the order of their addresses in the source table."""

_WIDE = tl.constexpr(6)  # a bit for each source that is int64
_TOKENS, _PADDED_TOKENS = tl.constexpr(7), tl.constexpr(8)
_SEQUENCES, _PADDED_SEQUENCES = tl.constexpr(9), tl.constexpr(10)
_COLUMNS, _ROW_STRIDE = tl.constexpr(11), tl.constexpr(12)
_DECODE = tl.constexpr(13)
TABLE_SIZE = 14

_FILLED = (*SOURCES, "cu_seqlens_k", "last_rows")
"""What the kernel may fill, in the order of the bits of ``FILLED``."""

_TOKENS_OF_A_PROGRAM = 256
_MOST_COLUMNS = 1024
_PROGRAMS_OF_TABLES = 32


@triton.jit
def _numbers(table, SOURCE: tl.constexpr, places, mask):
    """int64 numbers of a source."""
    address = tl.load(table + SOURCE)
    wide = ((tl.load(table + _WIDE) >> SOURCE) & 1) + 0 * places
    narrow_source = address.to(tl.pointer_type(tl.int32))
    wide_source = address.to(tl.pointer_type(tl.int64))
    narrow = tl.load(narrow_source + places, mask=mask & (wide == 0), other=0)
    return narrow.to(tl.int64) + tl.load(wide_source + places, mask=mask & (wide != 0), other=0)


@triton.jit
def fill_kernel(
    table,
    token_ids,
    positions,
    slot_mapping,
    context_lengths,
    cu_seqlens_q,
    block_tables,
    cu_seqlens_k,
    last_rows,
    scratch_block,
    FILLED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Sequences by program 0; tokens in blocks of TOKENS and rows of tables by all. Padded tokens
    go to the scratch block, and a padded sequence has a context of one token there. FILLED has a
    bit for each input that the phase has."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    program, programs = tl.program_id(0), tl.num_programs(0)
    tokens, padded_tokens = tl.load(table + _TOKENS), tl.load(table + _PADDED_TOKENS)
    sequences, padded = tl.load(table + _SEQUENCES), tl.load(table + _PADDED_SEQUENCES)
    for block in range(program, (padded_tokens + TOKENS - 1) // TOKENS, programs):
        token = block * TOKENS + tl.arange(0, TOKENS)
        real, here = token < tokens, token < padded_tokens
        if FILLED & 1:
            tl.store(token_ids + token, _numbers(table, 0, token, real), mask=here)
        if FILLED & 2:
            tl.store(positions + token, _numbers(table, 1, token, real), mask=here)
        if FILLED & 4:
            scratch = scratch_block * BLOCK_SIZE + (token - tokens) % BLOCK_SIZE
            slot = tl.where(real, _numbers(table, 2, token, real), scratch)
            tl.store(slot_mapping + token, slot, mask=here)
    if program == 0:
        before = tokens * 0
        if FILLED & 16:
            tl.store(cu_seqlens_q, 0, mask=padded > 0)
        if FILLED & 64:
            tl.store(cu_seqlens_k, 0, mask=padded > 0)
        for first in range(0, padded, TOKENS):
            sequence = first + tl.arange(0, TOKENS)
            real, here = sequence < sequences, sequence < padded
            if FILLED & 72:
                length = tl.where(real, _numbers(table, 3, sequence, real), 1)
                length = tl.where(here, length, 0)
                if FILLED & 8:
                    tl.store(context_lengths + sequence, length, mask=here)
                if FILLED & 64:
                    tl.store(cu_seqlens_k + 1 + sequence, before + tl.cumsum(length, 0), mask=here)
                    before += tl.sum(length, 0)
            if FILLED & 144:
                beyond = tl.where(tl.load(table + _DECODE) != 0, sequence + 1, tokens)
                end = tl.where(real, _numbers(table, 4, sequence + 1, real), beyond)
                if FILLED & 16:
                    tl.store(cu_seqlens_q + 1 + sequence, end, mask=here)
                if FILLED & 128:
                    tl.store(last_rows + sequence, end - 1, mask=here)
    if FILLED & 32:
        columns, stride = tl.load(table + _COLUMNS), tl.load(table + _ROW_STRIDE)
        for row in range(program, padded, programs):
            used = tl.where(row < sequences, columns, 0)
            for left in range(0, WIDTH, COLUMNS):
                column = left + tl.arange(0, COLUMNS)
                entry = _numbers(table, 5, row * stride + column, column < used)
                unused = column < tl.where(row < sequences, 0, 1)
                entry = tl.where(unused, scratch_block, entry)
                tl.store(block_tables + row * WIDTH + column, entry, mask=column < WIDTH)


def bind_fill(
    table: torch.Tensor,
    views: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    block_size: int,
    scratch_block: int,
) -> Thunk:
    """The launch that fills ``views``, step inputs by name, as ``table`` says, int64 [TABLE_SIZE].
    ``sizes`` of the bucket say how many programs there are, which do steps of any size."""
    tables = views.get("block_tables")
    width = 1 if tables is None else tables.shape[1]
    blocks = triton.cdiv(sizes["tokens"], _TOKENS_OF_A_PROGRAM)
    return partial(
        launch,
        fill_kernel,
        (max(blocks, 1 if tables is None else _PROGRAMS_OF_TABLES),),
        table,
        *(views.get(name, table) for name in _FILLED),
        scratch_block,
        FILLED=sum((name in views) << bit for bit, name in enumerate(_FILLED)),
        BLOCK_SIZE=block_size,
        WIDTH=width,
        TOKENS=_TOKENS_OF_A_PROGRAM,
        COLUMNS=min(max(power_of_two(width), 16), _MOST_COLUMNS),
        num_warps=4,
        pdl=False,  # it is the first of its step
    )
