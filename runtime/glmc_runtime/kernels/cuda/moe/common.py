"""Common parts of the kernel variants of the experts: a call's tensors, workspace, helpers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.checks import (
    optional,
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Experts:
    """The tensors of one call, checked, and the sizes that all variants need.

    A pair is one token at one of its experts, numbered ``token * top_k + place``. The shared
    expert adds ``tokens`` rows after the pairs' wherever something is kept per pair. ``is_local``:
    these are one rank's experts, and ids that are no expert's contribute nothing.
    """

    x: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    shared_gate_up: torch.Tensor | None
    shared_down: torch.Tensor | None
    out: torch.Tensor
    is_local: bool = False

    @property
    def tokens(self) -> int:
        return self.ids.shape[0]

    @property
    def top_k(self) -> int:
        return self.ids.shape[1]

    @property
    def pairs(self) -> int:
        return self.ids.numel()

    @property
    def experts(self) -> int:
        return self.down.shape[0]

    @property
    def local(self) -> int:
        """``LOCAL`` of a kernel: the number of experts where other ids may come, else 0."""
        return self.experts if self.is_local else 0

    @property
    def hidden(self) -> int:
        return self.down.shape[1]

    @property
    def width(self) -> int:
        return self.down.shape[2]

    @property
    def shared(self) -> int:
        """How many shared experts: 0 or 1."""
        return int(self.shared_down is not None)

    @property
    def shared_width(self) -> int:
        """The width of the shared expert, or of the others without one."""
        return self.width if self.shared_down is None else self.shared_down.shape[1]

    @property
    def widest(self) -> int:
        return max(self.width, self.shared_width)

    @property
    def rows(self) -> int:
        """Rows of what is kept per pair."""
        return self.pairs + self.tokens * self.shared

    @property
    def shared_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The shared expert's, or something to pass where no kernel looks."""
        if self.shared_gate_up is None or self.shared_down is None:
            return self.gate_up, self.down
        return self.shared_gate_up, self.shared_down

    @property
    def key(self) -> str:
        """How the tuned tables name these sizes."""
        return f"{self.experts}x{self.width}x{self.hidden}k{self.top_k}"

    @property
    def pdl(self) -> bool:
        return pdl_enabled(self.x.device)


def read_call(arguments: dict[str, Any], is_local: bool = False) -> Experts:
    """The call's tensors; raises :class:`PlanError` where they do not fit together."""
    x, ids, down = arguments["x"], arguments["ids"], arguments["down"]
    call = Experts(
        x,
        arguments["weights"],
        ids,
        arguments["gate_up"],
        down,
        optional(arguments, "shared_gate_up"),
        optional(arguments, "shared_down"),
        arguments["out"],
        is_local,
    )
    require_dtype("x", x)
    require_dtype("weights", call.weights, torch.float32)
    require_dtype("ids", ids, torch.int64)
    tokens, top_k = ids.shape
    experts, hidden, width = down.shape
    require_shape("x", x, (tokens, hidden))
    require_shape("out", call.out, (tokens, hidden))
    require_shape("ids", ids, (tokens, top_k))
    require_shape("weights", call.weights, (tokens, top_k))
    require_shape("gate_up", call.gate_up, (experts, 2 * width, hidden))
    require_shape("down", down, (experts, hidden, width))
    if (call.shared_gate_up is None) != (call.shared_down is None):
        raise PlanError("the shared expert has one of its two weights only")
    for name in ("gate_up", "down", "out", "shared_gate_up", "shared_down"):
        if arguments.get(name) is not None:
            require_dtype(name, arguments[name], x.dtype)
    if call.shared_gate_up is not None and call.shared_down is not None:
        ws = call.shared_width
        require_shape("shared_gate_up", call.shared_gate_up, (2 * ws, hidden))
        require_shape("shared_down", call.shared_down, (hidden, ws))
    require_one_device(
        x, call.weights, ids, call.gate_up, down, call.shared_gate_up, call.shared_down, call.out
    )
    return call


def varied(base: Configuration, names: str, *choices: tuple[Any, ...]) -> Iterator[Configuration]:
    """``base`` once for each of ``choices``, its values for ``names`` replaced by them."""
    for choice in choices:
        yield {**base, **dict(zip(names.split(), choice, strict=True))}


def blocks_meta(c: Configuration, name: str, columns: int) -> dict[str, Any]:
    """What the launch ``name``, "up" or "down", asks for over so many columns of its output, which
    are ``BLOCKS``. Registers are of a thread, 0: what the compiler takes; fewer let more programs
    run side by side."""
    registers = c.get(f"{name}_registers", 0)
    return {
        "BLOCKS": triton.cdiv(columns, c[f"{name}_n"]),
        "BLOCK_N": c[f"{name}_n"],
        "BLOCK_K": c[f"{name}_k"],
        "STAGES": c[f"{name}_stages"],
        "num_warps": c[f"{name}_warps"],
        **({"maxnreg": registers} if registers else {}),
    }


def workspace_views(device: torch.device, *parts: tuple[int, torch.dtype]) -> list[torch.Tensor]:
    """Views of the workspace, each (elements, dtype), every one aligned to 256 bytes."""
    sizes = [-(-count * dtype.itemsize // 256) * 64 for count, dtype in parts]
    memory = workspace.floats(device, sum(sizes))
    pieces, start = [], 0
    for size, (count, dtype) in zip(sizes, parts, strict=True):
        pieces.append(memory[start : start + size].view(dtype)[:count])
        start += size
    return pieces


@triton.jit
def sum_of_pairs(
    results,
    weights,
    ids,
    out,
    token,
    column,
    tokens,
    pairs,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
):
    """Write out[token, column]: the pairs' results, weighted and added in their order in float32,
    plus the shared expert's; results [pairs + tokens, H]. With LOCAL, the number of experts,
    results of other ids are not there."""
    dtype: tl.constexpr = out.dtype.element_ty
    here = token < tokens
    mask = here[:, None] & (column < H)[None, :]
    total = tl.zeros([token.shape[0], column.shape[0]], tl.float32)
    for place in tl.static_range(TOP_K):
        pair = token * TOP_K + place
        weight = tl.load(weights + pair, mask=here, other=0.0)
        at = results + pair.to(tl.int64)[:, None] * H + column[None, :]
        there = mask
        if LOCAL:
            there = mask & (tl.load(ids + pair, mask=here, other=LOCAL) < LOCAL)[:, None]
        result = tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
        total += weight[:, None] * result.to(tl.float32)
    value = total.to(dtype)
    if SHARED:
        at = results + (pairs + token).to(tl.int64)[:, None] * H + column[None, :]
        shared = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
        value = (value.to(tl.float32) + shared.to(tl.float32)).to(dtype)
    tl.store(out + token.to(tl.int64)[:, None] * H + column[None, :], value, mask=mask)


@triton.jit(do_not_specialize=["tokens", "pairs"])
def combine_kernel(
    results,
    weights,
    ids,
    out,
    tokens,
    pairs,
    TOP_K: tl.constexpr,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):
    """The sum over each token's experts as a launch of its own: grid (tokens, column blocks)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    sum_of_pairs(results, weights, ids, out, token, column, tokens, pairs, TOP_K, H, SHARED, LOCAL)


def bind_combine(call: Experts, results: torch.Tensor) -> Thunk:
    """The launch that sums ``results`` [pairs + tokens, hidden] into the call's out."""
    block_n = min(power_of_two(call.hidden), 1024)
    grid = (call.tokens, triton.cdiv(call.hidden, block_n))
    arguments = (results, call.weights, call.ids, call.out, call.tokens, call.pairs)
    meta: dict[str, Any] = {
        "TOP_K": call.top_k,
        "H": call.hidden,
        "SHARED": call.shared,
        "LOCAL": call.local,
        "BLOCK_T": 1,
        "BLOCK_N": block_n,
        "pdl": call.pdl,
        "num_warps": 4,
    }

    def run() -> None:
        launch(combine_kernel, grid, *arguments, **meta)

    return run
