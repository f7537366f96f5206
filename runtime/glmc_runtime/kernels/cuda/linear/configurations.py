"""Which kernel variant multiplies, and with which blocks: the default, and what to measure.

The default is a model of cost for a product that is bound by the bytes of its weight. All variants
read at the speed of memory once enough programs run, so what is left is how evenly the weight's
tiles lie on the multiprocessors: ``tiles / processors`` decides, and for one row of x whether rows
of the weight are short. A variant serves from as many tiles a multiprocessor on as it kept near the
best; cuBLAS, which cuts k where tiles are few, serves below. The thresholds are of times on an H200
of ten weights, of 5120 to 23040 columns and 5120 to 151552 rows, at 1, 4, 16, 32 and 64 rows of x,
and of 48 shares that 2, 4 and 8 cards have, of 512 to 11520 columns and 768 to 75776 rows, at 1
row. There the default takes at most 1.08 and on average 1.007 times as long as the best
(``times_h200.json`` beside the tests).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton

from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda.launch import multiprocessors, shared_memory
from glmc_runtime.kernels.cuda.linear import gemv
from glmc_runtime.kernels.cuda.linear import skinny_gemm as skinny
from glmc_runtime.kernels.cuda.tuned import Configuration

ONE_ROUND = 4  # programs of the product of one row with six stages that a multiprocessor holds
EVEN = 1.2  # rounds of tiles of 8 rows over what they would be if none stood idle: narrower above
FEW_TILES = 1.5  # of 8 rows a multiprocessor: below, narrower ones get more of it to work
MANY_TILES = 6.5  # from here on, tiles of 8 rows whatever is left over
SHORT = 2048  # columns: a block of 1024 of them is half of a row or more
WIDE_FEW = 0.75  # tiles of 64 rows a multiprocessor: from here on they serve 2 to 16 rows of x,
WIDE_32 = 2.0  # 17 to 32 rows,
WIDE_64 = 2.5  # and, as tiles of 128 rows of half as many, 33 to 64


@dataclass(frozen=True)
class Card:
    """What a choice depends on: multiprocessors, and bytes of shared memory of a program."""

    processors: int
    shared_memory: int


def card_of(device: torch.device) -> Card:
    return Card(multiprocessors(device), shared_memory(device))


def _configuration(
    variant: str, block_n: int, block_k: int, split_k: int, warps: int, stages: int
) -> Configuration:
    return {
        "variant": variant,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "SPLIT_K": split_k,
        "num_warps": warps,
        "num_stages": stages,
    }


def _splits(tiles: int, k: int, wanted: int, shortest: int, most: int = 16) -> int:
    """The smallest power of two of parts of k, up to ``most``, that gives ``wanted`` programs, each
    at least ``shortest`` elements of k."""
    split = 1
    while tiles * split < wanted and split < most and k // (2 * split) >= shortest:
        split *= 2
    return split


def _most_parts(block_n: int, padded: int, warps: int) -> int:
    """How many parts of a tile one program can sum up at once: all are in registers, 128 of
    each thread."""
    return min(16, 128 * 32 * warps // (block_n * padded))


def default(
    dtype: torch.dtype, n: int, k: int, rows: int, is_gated: bool, card: Card
) -> Configuration:
    """What serves where nothing was measured. ``n`` counts rows of the weight."""
    narrow = dtype != torch.float32
    if rows <= (1 if narrow else gemv.MOST_ROWS):
        return _default_gemv(n, k, is_gated, narrow, card)
    if narrow and rows <= skinny.MOST_ROWS:
        return _default_skinny(n, k, rows, card)
    return {"variant": "cublas"}


def _default_gemv(n: int, k: int, is_gated: bool, narrow: bool, card: Card) -> Configuration:
    warps = 4
    if not narrow:
        block_n, block_k, stages = (16, 128, 4) if is_gated or n > 65536 else (8, 256, 4)
    elif is_gated or _lie_evenly(n / 8 / card.processors):
        block_n, block_k, stages = 8, 512, 6
    elif n / 8 / card.processors > ONE_ROUND and k <= SHORT:
        block_n, block_k, warps, stages = 8, 256, 2, 4
    else:
        block_n, block_k, stages = 4, 1024, 4
    block_k = max(min(block_k, power_of_two(k)), 16)
    split = _splits(triton.cdiv(n, block_n), k, card.processors, 2 * block_k)
    return _configuration("gemv", block_n, block_k, split, warps, stages)


def _lie_evenly(tiles: float) -> bool:
    """Whether tiles of 8 rows keep the multiprocessors busy to the end: so many for each."""
    if tiles <= ONE_ROUND:
        return tiles >= FEW_TILES and math.ceil(tiles) <= EVEN * tiles
    return tiles >= MANY_TILES


def _blocks(block_n: int, block_k: int, padded: int, stages: int) -> int:
    """Bytes of shared memory that the blocks of all stages take, of elements of two bytes."""
    return 2 * block_k * (block_n + padded) * stages


def _default_skinny(n: int, k: int, rows: int, card: Card) -> Configuration:
    padded = max(16, power_of_two(rows))
    tiles = n / 64 / card.processors
    if rows <= 16 and tiles >= WIDE_FEW:
        block_n, block_k, warps, stages = 64, 256, 4, 5
    elif rows <= 16:
        block_n, block_k, warps, stages = 16, 256, 2, 5
    elif rows <= 32 and tiles >= WIDE_32:
        block_n, block_k, warps, stages = 64, 128, 4, 5
    elif rows > 32 and tiles >= WIDE_64:
        block_n, block_k, warps, stages = 128, 128, 8, 4
    else:
        return {"variant": "cublas"}
    block_k = max(min(block_k, power_of_two(k)), 16)
    fitting = card.shared_memory // _blocks(block_n, block_k, padded, 1)
    stages = max(min(stages, fitting), 1)
    most = _most_parts(block_n, padded, warps)
    split = _splits(triton.cdiv(n, block_n), k, card.processors // 2, 4 * block_k, most)
    return _configuration("skinny", block_n, block_k, split, warps, stages)


def candidates(
    dtype: torch.dtype, n: int, k: int, rows: int, is_gated: bool, card: Card
) -> Iterator[Configuration]:
    """What to try for a weight [n, k], the default first; cuBLAS always."""
    seen = []
    for configuration in (
        default(dtype, n, k, rows, is_gated, card),
        {"variant": "cublas"},
        *_gemv_candidates(dtype, n, rows, is_gated),
        *_skinny_candidates(dtype, n, k, rows, card),
    ):
        if configuration not in seen:
            seen.append(configuration)
            yield configuration


def _gemv_candidates(
    dtype: torch.dtype, n: int, rows: int, is_gated: bool
) -> Iterator[Configuration]:
    # Of two bytes an element, no table has one that was the best at 4 rows.
    if rows > (gemv.MOST_ROWS if dtype == torch.float32 else 2):
        return
    # At least 64 elements of k per warp: x comes by asynchronous copies of no less than 4 bytes.
    for block_n, block_k, split, warps, stages in (
        (8, 512, 1, 4, 4),
        (8, 256, 1, 2, 4),
        (8, 512, 1, 4, 3),
        (8, 512, 1, 4, 6),
        (16, 256, 1, 4, 4),
        (16, 256, 1, 4, 6),
        (16, 512, 1, 8, 4),
        (16, 128, 1, 2, 6),
        (32, 128, 1, 2, 4),
        (4, 1024, 1, 4, 4),
        (16, 256, 2, 4, 4),
        (8, 512, 1, 4, 1),
    ):
        if (split == 1 or n <= 8192) and (block_n >= 8 or not is_gated):
            yield _configuration("gemv", block_n, block_k, split, warps, stages)


def _skinny_candidates(
    dtype: torch.dtype, n: int, k: int, rows: int, card: Card
) -> Iterator[Configuration]:
    if dtype == torch.float32 or rows > skinny.MOST_ROWS:
        return
    for block_n, block_k, waves, warps, stages in (
        (64, 128, 2, 4, 4),
        (64, 128, 1, 4, 5),
        (64, 256, 1, 4, 3),
        (64, 128, 3, 4, 3),
        (64, 64, 3, 4, 6),
        (128, 128, 1, 4, 4),
        (128, 64, 2, 4, 5),
        (128, 128, 1, 8, 4),
        (32, 256, 3, 4, 3),
        (32, 128, 4, 4, 4),
        (16, 256, 4, 2, 4),
    ):
        padded = max(16, power_of_two(rows))
        if _blocks(block_n, block_k, padded, stages) > card.shared_memory or (
            rows > 32 and block_n < 64
        ):
            continue
        most = _most_parts(block_n, padded, warps)
        split = _splits(triton.cdiv(n, block_n), k, waves * card.processors, 2 * block_k, most)
        yield _configuration("skinny", block_n, block_k, split, warps, stages)
    # Narrow tiles need no split, and so no counter, but load x more often: for few rows only.
    for block_n, block_k, split, warps, stages in (
        (32, 256, 1, 4, 6),
        (32, 128, 1, 4, 8),
        (32, 256, 1, 2, 4),
        (32, 512, 1, 4, 4),
        (32, 256, 2, 4, 4),
        (16, 256, 1, 2, 5),
        (16, 512, 1, 4, 4),
        (16, 256, 2, 2, 4),
        (64, 256, 1, 4, 5),
        (64, 128, 2, 4, 6),
    ):
        padded = max(16, power_of_two(rows))
        if _blocks(block_n, block_k, padded, stages) <= card.shared_memory and rows <= 32:
            yield _configuration("skinny", block_n, block_k, split, warps, stages)
