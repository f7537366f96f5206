"""The experts of thousands of tokens: tiles of sorted rows whose blocks come by TMA.

As "sorted_tiles", but rows are first gathered in the order of the experts, so that both operands
are blocks of matrices that a tensor descriptor has, and no thread computes an address. An expert's
last tile, where it has half of a tile's rows or less, is multiplied as half a tile: of 128 rows an
expert, two tiles in three are whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.descriptors import block_descriptor, can_describe
from glmc_runtime.kernels.cuda.launch import interpreted, launch
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
from glmc_runtime.kernels.cuda.moe.sorted_tiles import tile_and_block

_GATHERED = 4  # rows of a program


@triton.jit(do_not_specialize=["pairs", "count"])
def gather_kernel(
    x,
    order,
    gathered,
    pairs,
    count,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """gathered [count, H]: the token of each row's pair, behind the pairs all tokens in their order
    for the shared expert; grid (blocks of ROWS rows)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.load(order + row, mask=row < pairs, other=0)
    token = tl.where(row < pairs, pair // TOP_K, row - pairs).to(tl.int64)
    here = (row < count)[:, None]
    for start in tl.static_range(0, H, BLOCK):
        column = (start + tl.arange(0, BLOCK))[None, :]
        mask = here & (column < H)
        values = tl.load(x + token[:, None] * H + column, mask=mask)
        tl.store(gathered + row.to(tl.int64)[:, None] * H + column, values, mask=mask)


@triton.jit
def _up(
    rows,
    weights,
    activated,
    first,
    count,
    weight_row,
    block,
    width,
    H: tl.constexpr,
    WIDEST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """activated[first : first + count, block]: gates begin at ``weight_row``, ups ``width``
    later."""
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    at = weight_row + block * BLOCK_N
    for k in tl.range(0, H, BLOCK_K, num_stages=STAGES):
        values = rows.load([first, k])
        gate = dot(values, tl.trans(weights.load([at, k])), gate, WIDEN)
        up = dot(values, tl.trans(weights.load([at + width, k])), up, WIDEN)
    lane = tl.arange(0, BLOCK_M)
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    out = activated + (first + lane).to(tl.int64)[:, None] * WIDEST + column[None, :]
    result = gated(gate, up, activated.dtype.element_ty)
    tl.store(out, result, mask=(lane < count)[:, None] & (column < width)[None, :])


@triton.jit
def _down(
    rows,
    weights,
    results,
    order,
    first,
    count,
    weight_row,
    block,
    width,
    in_order,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """results[pairs of the rows, block]; ``in_order``: rows are where their results go."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in tl.range(0, width, BLOCK_K, num_stages=STAGES):
        weight = weights.load([weight_row + block * BLOCK_N, k])
        total = dot(rows.load([first, k]), tl.trans(weight), total, WIDEN)
    lane = tl.arange(0, BLOCK_M)
    real = lane < count
    pair = first + lane
    if not in_order:
        pair = tl.load(order + pair, mask=real, other=0)
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    out = results + pair.to(tl.int64)[:, None] * H + column[None, :]
    values = total.to(results.dtype.element_ty)
    tl.store(out, values, mask=real[:, None] & (column < H)[None, :])


@triton.jit(do_not_specialize=["experts", "most"])
def tma_up_kernel(
    rows,
    half_rows,
    weights,
    shared_weights,
    activated,
    tiles,
    tile_count,
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
    LEAST_WHOLE: tl.constexpr,
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
        at = expert * (2 * W)
        half: tl.constexpr = BLOCK_M // 2
        # Branches one after the other: of a chain Triton 3.9 keeps the blocks of all at once.
        if SHARED and expert >= experts:
            _up(rows, shared_weights, activated, first, count, 0, block, WS,
                H, WIDEST, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip
        if count < LEAST_WHOLE and expert < experts:
            _up(half_rows, weights, activated, first, count, at, block, W,
                H, WIDEST, half, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip
        if count >= LEAST_WHOLE and expert < experts:
            _up(rows, weights, activated, first, count, at, block, W,
                H, WIDEST, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip


@triton.jit(do_not_specialize=["experts", "most"])
def tma_down_kernel(
    rows,
    half_rows,
    weights,
    shared_weights,
    results,
    order,
    tiles,
    tile_count,
    experts,
    most,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    LEAST_WHOLE: tl.constexpr,
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
        at = expert * H
        half: tl.constexpr = BLOCK_M // 2
        if SHARED and expert >= experts:  # branches as above
            _down(rows, shared_weights, results, order, first, count, 0, block, WS, True,
                  H, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip
        if count < LEAST_WHOLE and expert < experts:
            _down(half_rows, weights, results, order, first, count, at, block, W, False,
                  H, half, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip
        if count >= LEAST_WHOLE and expert < experts:
            _down(rows, weights, results, order, first, count, at, block, W, False,
                  H, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, WIDEN)  # fmt: skip


def can_run(call: Experts) -> bool:
    """Whether descriptors can be made of all that is read by blocks. Of experts of two widths, the
    narrower would read columns that nobody has written."""
    if call.x.element_size() != 2 or call.is_local or call.width != call.shared_width:
        return False
    matrices = [call.x, call.gate_up.flatten(0, 1), call.down.flatten(0, 1)]
    matrices += [each for each in (call.shared_gate_up, call.shared_down) if each is not None]
    return all(can_describe(each) for each in matrices)


def default(call: Experts) -> Configuration:
    """Blocks for 128 rows of an expert and more."""
    return {
        "variant": "tma_tiles", "rows": 128, "group": 8, "halves": True,
        "up_n": 128, "up_k": 64, "up_stages": 4, "up_warps": 8,
        "down_n": 256, "down_k": 64, "down_stages": 4, "down_warps": 8,
    }  # fmt: skip


def candidates(call: Experts) -> Iterator[Configuration]:
    if call.pairs < 32 * call.experts or not can_run(call):
        return
    names = "rows group halves up_n up_stages up_warps down_n down_stages down_warps"
    yield from varied(
        default(call),
        names,
        (128, 4, True, 128, 4, 8, 256, 4, 8),
        (128, 8, True, 128, 4, 8, 256, 4, 8),
        (128, 8, False, 128, 4, 8, 256, 4, 8),
        (128, 8, True, 64, 3, 4, 128, 3, 4),
        (64, 8, False, 128, 4, 8, 256, 4, 8),
    )


def bind(call: Experts, configuration: Configuration) -> Thunk:
    if not can_run(call):
        raise PlanError(
            "the experts of this call can't be read by tensor descriptors",
            expected="two bytes an element, rows of whole 16 bytes, all experts on this rank, "
            "and a Hopper card or a later one",
            remedy="choose another variant, such as 'sorted_tiles'",
        )
    c = configuration
    dtype, block_m = call.x.dtype, c["rows"]
    gathered, activated, results, *ints = workspace_views(
        call.x.device,
        (call.rows * call.hidden, dtype),
        (call.rows * call.widest, dtype),
        (call.rows * call.hidden, dtype),
        *Routing.sizes(call, block_m),
    )
    gathered, activated = gathered.view(call.rows, -1), activated.view(call.rows, -1)
    routing = Routing(*ints)
    route = bind_routing(call, routing, block_m)
    combine = bind_combine(call, results)
    most = most_tiles(call, block_m)
    table = (routing.tiles, routing.tile_count, call.experts, most)
    gather = (call.x, routing.order, gathered, call.pairs, call.rows)
    gather_grid = (triton.cdiv(call.rows, _GATHERED),)
    gather_meta: dict[str, Any] = {
        "TOP_K": call.top_k,
        "H": call.hidden,
        "ROWS": _GATHERED,
        "BLOCK": min(power_of_two(call.hidden), 1024),
        "num_warps": 8,
        "pdl": call.pdl,
    }
    common: dict[str, Any] = {
        "H": call.hidden,
        "W": call.width,
        "WS": call.shared_width,
        "SHARED": call.shared,
        "GROUP": c["group"],
        "BLOCK_M": block_m,
        "LEAST_WHOLE": block_m // 2 + 1 if c["halves"] else 0,
        "WIDEN": interpreted(),
        "pdl": call.pdl,
    }
    shared_gate_up, shared_down = call.shared_weights
    up_meta = {**common, "WIDEST": call.widest, **blocks_meta(c, "up", call.widest)}
    up = (
        *_rows(gathered, block_m, c["up_k"]),
        *_weights(call.gate_up, shared_gate_up, c["up_n"], c["up_k"]),
        activated,
        *table,
    )
    down_meta = {**common, **blocks_meta(c, "down", call.hidden)}
    down = (
        *_rows(activated, block_m, c["down_k"]),
        *_weights(call.down, shared_down, c["down_n"], c["down_k"]),
        results,
        routing.order,
        *table,
    )

    up_grid, down_grid = ((most * meta["BLOCKS"],) for meta in (up_meta, down_meta))

    def run() -> None:
        route()
        launch(gather_kernel, gather_grid, *gather, **gather_meta)
        launch(tma_up_kernel, up_grid, *up, **up_meta)
        launch(tma_down_kernel, down_grid, *down, **down_meta)
        combine()

    return run


def _rows(matrix: torch.Tensor, block_m: int, block_k: int) -> tuple[Any, Any]:
    """Whole tiles of rows, and halves."""
    whole = block_descriptor(matrix, (block_m, block_k))
    return whole, block_descriptor(matrix, (block_m // 2, block_k))


def _weights(
    experts: torch.Tensor, shared: torch.Tensor, block_n: int, block_k: int
) -> tuple[Any, Any]:
    """Of all experts, one under the other, and of the shared one."""
    flat = [each.flatten(0, 1) if each.dim() == 3 else each for each in (experts, shared)]
    first, second = (block_descriptor(each, (block_n, block_k)) for each in flat)
    return first, second
