"""The experts of one to a few tokens, token by token: two launches of matrix-vector products.

The first gives each pair (a token at one of its experts) its activated row, the second lets every
program sum some columns of one token over all its experts in a fixed order. An expert that two
tokens choose is read twice, so this variant is for so few tokens that this is rare. The shared
expert is one more expert of every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import triton
import triton.language as tl

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.activation import gated
from glmc_runtime.kernels.cuda.launch import launch
from glmc_runtime.kernels.cuda.linear.tiles import prefetch
from glmc_runtime.kernels.cuda.moe.common import Configuration, Experts, varied, workspace_views


@triton.jit(do_not_specialize=["pairs"])
def few_up_kernel(
    x,
    ids,
    gate_up,
    shared_gate_up,
    activated,
    pairs,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UNROLL: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """activated [pairs + tokens, WIDEST]; grid (blocks of gate rows, pairs + tokens)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(1)
    width = tl.where(row >= pairs, WS, W) if SHARED and WS != W else W
    if SHARED:
        if row >= pairs:
            token = row - pairs
            base = shared_gate_up
        else:
            token = row // TOP_K
            base = gate_up + tl.load(ids + row) * (2 * W * H)
    else:
        token = row // TOP_K
        expert = tl.load(ids + row)
        if LOCAL:  # noqa: SIM102
            if expert >= LOCAL:
                return
        base = gate_up + expert * (2 * W * H)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end read the last one again; they are never stored.
    even: tl.constexpr = W % BLOCK_N == 0 and WS == W
    line = n if even else tl.minimum(n, width - 1)
    column = tl.arange(0, BLOCK_K)
    gate_at = base + line[:, None] * H + column[None, :]
    up_at = gate_at + width * H
    # As wide as the weight's block, so that x needs no exchange between threads.
    x_at = tl.broadcast_to((x + token * H + column)[None, :], [BLOCK_N, BLOCK_K])
    gate = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in tl.range(0, H, BLOCK_K * UNROLL, num_stages=STAGES):
        for part in tl.static_range(UNROLL):
            k = start + part * BLOCK_K
            if H % (BLOCK_K * UNROLL) == 0:
                values = tl.load(x_at + k)
                gates = tl.load(gate_at + k, eviction_policy="evict_first")
                ups = tl.load(up_at + k, eviction_policy="evict_first")
            else:
                keep = column < H - k
                values = tl.load(x_at + k, mask=keep[None, :], other=0.0)
                gates = tl.load(
                    gate_at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first"
                )
                ups = tl.load(
                    up_at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first"
                )
            value = values.to(tl.float32)
            gate += gates.to(tl.float32) * value
            up += ups.to(tl.float32) * value
    result = gated(tl.sum(gate, 1), tl.sum(up, 1), x.dtype.element_ty)
    tl.store(activated + row * WIDEST + n, result, mask=n < width)


@triton.jit
def _dot_rows(base, line, values, W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """base[line] @ values over W columns, in float32; all loads stand side by side."""
    column = tl.arange(0, BLOCK_K)
    at = base + line[:, None] * W + column[None, :]
    value_at = tl.broadcast_to((values + column)[None, :], [BLOCK_N, BLOCK_K])
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for k in tl.static_range(0, W, BLOCK_K):
        if k + BLOCK_K <= W:
            weight = tl.load(at + k, eviction_policy="evict_first")
            value = tl.load(value_at + k)
        else:
            keep = column < W - k
            weight = tl.load(at + k, mask=keep[None, :], other=0.0, eviction_policy="evict_first")
            value = tl.load(value_at + k, mask=keep[None, :], other=0.0)
        total += weight.to(tl.float32) * value.to(tl.float32)
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["pairs"])
def few_down_kernel(
    activated,
    weights,
    ids,
    down,
    shared_down,
    out,
    pairs,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    WS: tl.constexpr,
    WIDEST: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TOGETHER: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [tokens, H]; grid (column blocks of out, tokens)."""
    dtype: tl.constexpr = out.dtype.element_ty
    token = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    line = n if H % BLOCK_N == 0 else tl.minimum(n, H - 1)
    if PDL:
        if PREFETCH:
            # The router's ids are there: the launch before this one has waited for them.
            lines = tl.arange(0, BLOCK_K)
            chosen = tl.load(ids + token * TOP_K)
            if LOCAL:
                chosen = tl.minimum(chosen, LOCAL - 1)
            first = down + chosen * (H * W)
            at = tl.program_id(0) * (BLOCK_N * W) + lines * 64
            prefetch(first + tl.minimum(at, H * W - 1))
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    total = tl.zeros([BLOCK_N], tl.float32)
    for place in tl.range(0, TOP_K, TOGETHER):
        for part in tl.static_range(TOGETHER):
            pair = token * TOP_K + place + part
            expert = tl.load(ids + pair)
            here = True
            if LOCAL:
                here = expert < LOCAL
            if here:
                base = down + expert * (H * W)
                weight = tl.load(weights + pair)
                result = _dot_rows(base, line, activated + pair * WIDEST, W, BLOCK_N, BLOCK_K)
                total += weight * result.to(dtype).to(tl.float32)
    value = total.to(dtype)
    if SHARED:
        at = activated + (pairs + token) * WIDEST
        shared = _dot_rows(shared_down, line, at, WS, BLOCK_N, BLOCK_K).to(dtype)
        value = (value.to(tl.float32) + shared.to(tl.float32)).to(dtype)
    tl.store(out + token * H + n, value, mask=n < H)


def default(call: Experts) -> Configuration:
    """A warp reads whole lines of a row, 16 bytes a lane, and reduces without a barrier."""
    lane = 16 // call.x.element_size()
    return {
        "variant": "by_token",
        "up_n": 8,
        "up_k": 32 * lane,
        "up_unroll": 4,
        "up_stages": 1,
        "up_warps": 4,
        "down_n": 8,
        "down_k": 32 * lane,
        "down_together": 2,
        "down_warps": 4,
        "prefetch": False,
    }


def candidates(call: Experts) -> Iterator[Configuration]:
    """Each launch varied while the other keeps its default."""
    base = default(call)
    lane = base["up_k"]
    yield from varied(
        base,
        "up_n up_k up_unroll up_stages up_warps",
        (8, lane, 4, 1, 4),
        (8, lane, 2, 1, 4),
        (8, lane, 8, 1, 4),
        (8, 2 * lane, 2, 1, 4),
        (8, lane, 4, 1, 8),
        (4, lane, 4, 1, 4),
        (4, lane, 8, 1, 4),
        (4, 2 * lane, 4, 1, 4),
        (4, lane, 8, 1, 2),
        (16, lane, 2, 1, 4),
        (16, lane, 4, 1, 8),
        (8, 2 * lane, 1, 3, 4),
        (8, 2 * lane, 1, 4, 4),
        (16, lane, 1, 4, 4),
    )
    yield from varied(
        base,
        "down_n down_k down_together down_warps prefetch",
        (8, lane, 2, 4, True),
        (8, lane, 1, 4, False),
        (8, lane, 8, 4, False),
        (8, lane, 1, 8, False),
        (8, lane, 2, 8, False),
        (8, 2 * lane, 1, 4, False),
        (4, lane, 1, 4, False),
        (4, lane, 2, 4, False),
        (4, lane, 4, 4, False),
        (4, lane, 8, 4, False),
        (4, lane, 2, 2, False),
        (16, lane, 1, 4, False),
        (16, lane, 1, 8, False),
    )


def bind(call: Experts, configuration: Configuration) -> Thunk:
    c = configuration
    shared_gate_up, shared_down = call.shared_weights
    (activated,) = workspace_views(call.x.device, (call.rows * call.widest, call.x.dtype))
    sizes = {
        "TOP_K": call.top_k,
        "H": call.hidden,
        "W": call.width,
        "WS": call.shared_width,
        "WIDEST": call.widest,
        "SHARED": call.shared,
        "LOCAL": call.local,
        "pdl": call.pdl,
    }
    up_grid = (triton.cdiv(call.widest, c["up_n"]), call.rows)
    up = (call.x, call.ids, call.gate_up, shared_gate_up, activated, call.pairs)
    up_meta = {
        **sizes,
        "BLOCK_N": c["up_n"],
        "BLOCK_K": c["up_k"],
        "UNROLL": c["up_unroll"],
        "STAGES": c["up_stages"],
        "num_warps": c["up_warps"],
    }
    down_grid = (triton.cdiv(call.hidden, c["down_n"]), call.tokens)
    down = (activated, call.weights, call.ids, call.down, shared_down, call.out, call.pairs)
    down_meta = {
        **sizes,
        "BLOCK_N": c["down_n"],
        "BLOCK_K": c["down_k"],
        "TOGETHER": gcd(call.top_k, c["down_together"]),
        "PREFETCH": c["prefetch"],
        "num_warps": c["down_warps"],
    }

    def run() -> None:
        launch(few_up_kernel, up_grid, *up, **up_meta)
        launch(few_down_kernel, down_grid, *down, **down_meta)

    return run
