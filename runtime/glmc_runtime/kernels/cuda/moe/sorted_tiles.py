"""The experts of many tokens: pairs sorted by expert, then products of tiles of their rows.

A tile is up to BLOCK_M rows of one expert. Tiles next to each other run together on the same
columns, so that an expert's weights come from memory about once. The shared expert is one more
expert, of all tokens. With WEIGHTS_LEFT the weights are the left operand of the products and the
rows the right one: tensor cores take 64 rows of a left operand and as few as 8 of a right one, so
that tiles of 16 or 32 rows cost no more than they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.launch import interpreted, launch, shared_memory
from glmc_runtime.kernels.cuda.linear.tiles import dot
from glmc_runtime.kernels.cuda.moe.common import (
    Configuration,
    Experts,
    bind_combine,
    blocks_meta,
    varied,
    workspace_views,
)
from glmc_runtime.kernels.cuda.moe.routing import Routing, bind_routing, most_tiles


@triton.jit
def tile_and_block(most, BLOCKS: tl.constexpr, GROUP: tl.constexpr):
    """Which tile and which block of columns a program has: GROUP tiles share a block in turn."""
    program = tl.program_id(0)
    group = program // (GROUP * BLOCKS)
    members = tl.minimum(most - group * GROUP, GROUP)
    within = program % (GROUP * BLOCKS)
    return group * GROUP + within % members, within // members


@triton.jit
def _sums(ROWS: tl.constexpr, COLUMNS: tl.constexpr, WEIGHTS_LEFT: tl.constexpr):
    """Zeros [ROWS, COLUMNS], transposed with WEIGHTS_LEFT."""
    if WEIGHTS_LEFT:
        zeros = tl.zeros([COLUMNS, ROWS], tl.float32)
    else:
        zeros = tl.zeros([ROWS, COLUMNS], tl.float32)
    return zeros


@triton.jit
def _multiplied(values, weight, total, WEIGHTS_LEFT: tl.constexpr, WIDEN: tl.constexpr):
    """``total`` and the product of values [rows, k] and weight [columns, k]."""
    if WEIGHTS_LEFT:
        total = dot(weight, tl.trans(values), total, WIDEN)
    else:
        total = dot(values, tl.trans(weight), total, WIDEN)
    return total


@triton.jit
def _store(row_at, column, values, is_row, is_column, WEIGHTS_LEFT: tl.constexpr):
    """``values`` as :func:`_sums` made them, to the columns after each of ``row_at`` [rows]."""
    if WEIGHTS_LEFT:
        at = row_at[None, :] + column[:, None]
        tl.store(at, values, mask=is_row[None, :] & is_column[:, None])
    else:
        at = row_at[:, None] + column[None, :]
        tl.store(at, values, mask=is_row[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["pairs", "experts", "most"])
def sorted_up_kernel(
    x,
    gate_up,
    shared_gate_up,
    activated,
    order,
    tiles,
    tile_count,
    pairs,
    experts,
    most,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    WEIGHTS_LEFT: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """activated [pairs + tokens, WIDEST] in the order of the experts; grid (most * BLOCKS)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, block = tile_and_block(most, BLOCKS, GROUP)
    if tile < tl.load(tile_count):
        expert = tl.load(tiles + 3 * tile)
        first = tl.load(tiles + 3 * tile + 1)
        count = tl.load(tiles + 3 * tile + 2)
        lane = tl.arange(0, BLOCK_M)
        row = first + lane
        real = lane < count
        base = gate_up + expert.to(tl.int64) * (2 * W * H)
        width = tl.where(expert < experts, W, WS) if SHARED and WS != W else W
        if SHARED:
            pair = tl.load(order + row, mask=lane < tl.where(expert < experts, count, 0), other=0)
            token = tl.where(expert < experts, pair // TOP_K, row - pairs)
            if expert >= experts:
                base = shared_gate_up
        else:
            token = tl.load(order + row, mask=real, other=0) // TOP_K
        token = tl.where(real, token, 0)
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        # Rows past the end read the last one again; they are never stored.
        even: tl.constexpr = W % BLOCK_N == 0 and WS == W
        line = n if even else tl.minimum(n, width - 1)
        column = tl.arange(0, BLOCK_K)
        # Rows past a tile's end read token 0 instead of being masked: they are never stored.
        x_at = x + token.to(tl.int64)[:, None] * H + column[None, :]
        gate_at = base + line[:, None] * H + column[None, :]
        up_at = gate_at + width * H
        gate = _sums(BLOCK_M, BLOCK_N, WEIGHTS_LEFT)
        up = _sums(BLOCK_M, BLOCK_N, WEIGHTS_LEFT)
        for k in tl.range(0, H, BLOCK_K, num_stages=STAGES):
            if H % BLOCK_K == 0:
                values = tl.load(x_at + k)
                gates = tl.load(gate_at + k)
                ups = tl.load(up_at + k)
            else:
                keep = (column < H - k)[None, :]
                values = tl.load(x_at + k, mask=keep, other=0.0)
                gates = tl.load(gate_at + k, mask=keep, other=0.0)
                ups = tl.load(up_at + k, mask=keep, other=0.0)
            gate = _multiplied(values, gates, gate, WEIGHTS_LEFT, WIDEN)
            up = _multiplied(values, ups, up, WEIGHTS_LEFT, WIDEN)
        result = gated(gate, up, x.dtype.element_ty)
        at = activated + row.to(tl.int64) * WIDEST
        _store(at, n, result, real, n < width, WEIGHTS_LEFT)


@triton.jit(do_not_specialize=["pairs", "experts", "most"])
def sorted_down_kernel(
    activated,
    down,
    shared_down,
    results,
    order,
    tiles,
    tile_count,
    pairs,
    experts,
    most,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    WEIGHTS_LEFT: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """results [pairs + tokens, H] in the order of the pairs; grid (most * BLOCKS)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, block = tile_and_block(most, BLOCKS, GROUP)
    if tile < tl.load(tile_count):
        expert = tl.load(tiles + 3 * tile)
        first = tl.load(tiles + 3 * tile + 1)
        count = tl.load(tiles + 3 * tile + 2)
        lane = tl.arange(0, BLOCK_M)
        real = lane < count
        row = tl.where(real, first + lane, first)
        base = down + expert.to(tl.int64) * (H * W)
        width = tl.where(expert < experts, W, WS) if SHARED and WS != W else W
        if SHARED:
            pair = tl.load(order + row, mask=lane < tl.where(expert < experts, count, 0), other=0)
            pair = tl.where(expert < experts, pair, row)
            if expert >= experts:
                base = shared_down
        else:
            pair = tl.load(order + row, mask=real, other=0)
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        line = n if H % BLOCK_N == 0 else tl.minimum(n, H - 1)
        column = tl.arange(0, BLOCK_K)
        x_at = activated + row.to(tl.int64)[:, None] * WIDEST + column[None, :]
        weight_at = base + line[:, None] * width + column[None, :]
        total = _sums(BLOCK_M, BLOCK_N, WEIGHTS_LEFT)
        for k in tl.range(0, width, BLOCK_K, num_stages=STAGES):
            if W % BLOCK_K == 0 and WS % BLOCK_K == 0:
                values = tl.load(x_at + k)
                weight = tl.load(weight_at + k)
            else:
                keep = (column < width - k)[None, :]
                values = tl.load(x_at + k, mask=keep, other=0.0)
                weight = tl.load(weight_at + k, mask=keep, other=0.0)
            total = _multiplied(values, weight, total, WEIGHTS_LEFT, WIDEN)
        at = results + pair.to(tl.int64) * H
        _store(at, n, total.to(results.dtype.element_ty), real, n < H, WEIGHTS_LEFT)


def default(call: Experts) -> Configuration:
    """Tiles as high as the experts fill on average: of 16 to 128 rows."""
    base: Configuration = {"variant": "sorted_tiles", "group": 8}
    base |= {"up_left": False, "down_left": False}
    if call.x.element_size() == 4:  # exact products, without tensor cores
        small: Configuration = {"rows": 32, "up_k": 32, "down_k": 32, "up_n": 32, "down_n": 64}
        return {**base, **_warps(4, 4), **_stages(2, 2), **small}
    if call.pairs >= 96 * call.experts:
        large: Configuration = {"rows": 128, "up_k": 64, "down_k": 64, "up_n": 128, "down_n": 256}
        return {**base, **_warps(8, 8), **_stages(3, 3), **large}
    if call.pairs > 24 * call.experts:
        middle: Configuration = {"rows": 64, "up_k": 64, "down_k": 64, "up_n": 64, "down_n": 128}
        return {**base, **_warps(4, 4), **_stages(4, 4), **middle}
    few: Configuration = {"group": 4, "up_k": 128, "down_k": 128, "up_n": 64, "down_n": 128}
    rows = 16 if call.pairs <= 8 * call.experts else 32
    stages = 3 if shared_memory(call.x.device) >= _THREE_STAGES else 2
    return {**base, **_warps(4, 4), **_stages(stages, stages), **few, "rows": rows}


_THREE_STAGES = 3 * (32 + 2 * 64) * 128 * 2  # bytes of three blocks of rows, gates and ups


def _warps(up: int, down: int) -> Configuration:
    return {"up_warps": up, "down_warps": down}


def _stages(up: int, down: int) -> Configuration:
    return {"up_stages": up, "down_stages": down}


def candidates(call: Experts) -> Iterator[Configuration]:
    base = default(call)
    yield base
    if call.x.element_size() == 4:
        return
    names = "rows group up_n up_k up_stages up_warps down_n down_k down_stages down_warps"
    every = varied(
        base,
        names,
        (128, 8, 128, 64, 3, 8, 128, 64, 4, 8),
        (128, 8, 64, 64, 4, 8, 128, 64, 4, 4),
        (128, 4, 128, 64, 3, 8, 256, 64, 3, 8),
        (128, 16, 128, 64, 3, 8, 256, 64, 3, 8),
        (64, 8, 128, 64, 3, 8, 256, 64, 3, 8),
        (64, 8, 128, 64, 3, 4, 128, 64, 4, 4),
        (64, 4, 64, 64, 4, 4, 128, 64, 4, 4),
        (64, 8, 64, 128, 3, 4, 128, 128, 3, 4),
        (32, 4, 64, 128, 3, 4, 128, 128, 3, 4),
        (16, 4, 64, 128, 3, 4, 128, 128, 3, 4),
    )
    yield from (each for each in every if 4 * each["rows"] * call.experts >= call.pairs)
    if call.pairs <= 64 * call.experts:
        yield from _few_rows(base)


def _few_rows(base: Configuration) -> Iterator[Configuration]:
    """Where memory decides: low tiles, long blocks of k. One launch varied at a time, for each
    number of rows."""
    up = "up_n up_k up_stages up_warps up_left"
    down = "down_n down_k down_stages down_warps down_left"
    for rows in (64, 32, 16):
        left = rows < 64
        plain = (64, 64, 3, 4, left, 128, 64, 3, 4, left)
        (start,) = varied({**base, "rows": rows, "group": 1}, f"{up} {down}", plain)
        yield start
        yield from varied(
            start,
            up,
            (64, 64, 3, 8, False),
            (64, 64, 4, 4, True),
            (64, 64, 2, 4, left),
            (64, 32, 6, 4, True),
            (64, 128, 2, 4, left),
            (64, 128, 3, 4, True),
            (128, 64, 3, 8, True),
            (32, 128, 3, 4, left),
            (32, 128, 4, 4, left),
        )
        yield from varied(
            start,
            down,
            (128, 64, 3, 8, False),
            (128, 64, 4, 4, True),
            (128, 64, 4, 8, True),
            (64, 64, 6, 4, True),
            (64, 128, 3, 4, True),
            (64, 128, 4, 4, left),
            (128, 32, 6, 4, True),
            (128, 128, 2, 4, left),
            (256, 64, 3, 8, True),
        )


def bind(call: Experts, configuration: Configuration) -> Thunk:
    c = configuration
    dtype, block_m = call.x.dtype, c["rows"]
    shared_gate_up, shared_down = call.shared_weights
    activated, results, *ints = workspace_views(
        call.x.device,
        (call.rows * call.widest, dtype),
        (call.rows * call.hidden, dtype),
        *Routing.sizes(call, block_m),
    )
    routing = Routing(*ints)
    route = bind_routing(call, routing, block_m)
    combine = bind_combine(call, results)
    most = most_tiles(call, block_m)
    table = (routing.order, routing.tiles, routing.tile_count, call.pairs, call.experts, most)
    common: dict[str, Any] = {
        "H": call.hidden,
        "W": call.width,
        "WS": call.shared_width,
        "WIDEST": call.widest,
        "SHARED": call.shared,
        "GROUP": c["group"],
        "BLOCK_M": block_m,
        "WIDEN": interpreted(),
        "pdl": call.pdl,
    }
    up = (call.x, call.gate_up, shared_gate_up, activated, *table)
    up_meta = {
        **common,
        "TOP_K": call.top_k,
        "WEIGHTS_LEFT": c["up_left"],
        **blocks_meta(c, "up", call.widest),
    }
    down = (activated, call.down, shared_down, results, *table)
    down_meta = {
        **common,
        "WEIGHTS_LEFT": c["down_left"],
        **blocks_meta(c, "down", call.hidden),
    }
    up_grid, down_grid = ((most * meta["BLOCKS"],) for meta in (up_meta, down_meta))

    def run() -> None:
        route()
        launch(sorted_up_kernel, up_grid, *up, **up_meta)
        launch(sorted_down_kernel, down_grid, *down, **down_meta)
        combine()

    return run
