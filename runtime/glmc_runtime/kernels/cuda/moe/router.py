"""The router: scores of all experts, and the choice among them.

Up to a few tokens in one launch: a program holds some rows of the router's weight, loads them
before it waits for the kernel in front, and multiplies them with one token; the last to arrive
chooses. Beyond, torch multiplies in float32 and a second launch chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    in_order,
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.linear.no_tf32 import exact
from glmc_runtime.kernels.cuda.moe.common import Configuration, varied
from glmc_runtime.kernels.cuda.moe.router_choice import choose_experts, choose_kernel
from glmc_runtime.kernels.cuda.tuned import configuration as tuned_configuration
from glmc_runtime.kernels.schema import schema
from glmc_runtime.kernels.shared_schemas import GATE, GROUPS

MOST_ROWS = 32  # tokens up to which each is multiplied alone; from 48 on cuBLAS is faster
_CHUNK = 1024  # tokens that are cast to float32 at once
_WIDENED = "_glmc_in_float32"  # the attribute of a weight that has its copy


@triton.jit
def gate_rows_kernel(
    x,
    weight,
    bias,
    logits,
    weights,
    ids,
    counters,
    scale,
    E: tl.constexpr,
    H: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_E: tl.constexpr,
    EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    PLACES: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    FILL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EPS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (blocks of experts, tokens); counters [tokens]. HIDDEN, EXPERTS are powers of two."""
    token = tl.program_id(1)
    expert = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    column = tl.arange(0, HIDDEN)
    at = weight + expert[:, None] * H + column[None, :]
    keep = (expert < E)[:, None] & (column < H)[None, :]
    row = tl.load(at, mask=keep, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    value = tl.load(x + token * H + column, mask=column < H, other=0.0).to(tl.float32)
    total = tl.sum(row * value[None, :], 1)
    tl.store(logits + token * E + expert, total, mask=expert < E)
    tl.debug_barrier()
    before = tl.atomic_add(counters + token, 1, sem="acq_rel")
    tl.debug_barrier()
    if before == tl.num_programs(0) - 1:
        tl.store(counters + token, 0)
        lane = tl.arange(0, EXPERTS)
        logit = tl.load(logits + token * E + lane, mask=lane < E, other=0.0, cache_modifier=".cg")
        choose_experts(
            logit[None, :],
            bias,
            weights,
            ids,
            token + tl.arange(0, 1),
            token + 1,
            scale,
            E,
            EXPERTS,
            TOP_K,
            PLACES,
            GROUPS,
            TOP_GROUPS,
            SLOTS,
            FILL,
            NORMALIZE,
            EPS,
        )


def default(tokens: int) -> Configuration:
    """Small enough that every multiprocessor has some program, or two."""
    if tokens <= MOST_ROWS:
        few = tokens <= 2
        return {"variant": "rows", "block_e": 2 if few else 4, "warps": 4 if few else 8}
    return {"variant": "library"}


def candidates(tokens: int) -> Iterator[Configuration]:
    """Configurations worth measuring, the default first."""
    yield default(tokens)
    if tokens <= 64:
        rows = {"variant": "rows"}
        yield from varied(
            rows, "block_e warps", (1, 4), (2, 4), (2, 8), (4, 4), (4, 8), (8, 8), (1, 2)
        )
    if 16 <= tokens <= MOST_ROWS:
        yield {"variant": "library"}


def _check(arguments: dict[str, Any]) -> None:
    x, weight, bias = arguments["x"], arguments["weight"], arguments["bias"]
    logits, weights, ids = (arguments[name] for name in ("logits", "weights", "ids"))
    tokens, top_k = ids.shape
    experts, hidden = weight.shape
    groups, top_groups = int(arguments["groups"]), int(arguments["top_groups"])
    require_dtype("x", x)
    require_dtype("weight", weight)
    for name in ("bias", "logits", "weights"):
        require_dtype(name, arguments[name], torch.float32)
    require_dtype("ids", ids, torch.int64)
    require_shape("x", x, (tokens, hidden))
    require_shape("weight", weight, (experts, hidden))
    require_shape("bias", bias, (experts,))
    require_shape("logits", logits, (tokens, experts))
    require_shape("weights", weights, (tokens, top_k))
    require_shape("ids", ids, (tokens, top_k))
    require_one_device(x, weight, bias, logits, weights, ids)
    if experts % groups or not 0 < top_groups <= groups or not 0 < top_k <= experts:
        raise PlanError(
            "the gate's numbers do not fit together",
            found=f"{experts} experts, {groups} groups, {top_groups} best, top {top_k}",
        )


@register(
    "cuda.moe_gate",
    schema(
        *GATE,
        relations=(
            *GROUPS,
            "top_k <= experts",
        ),
    ),
)
def moe_gate(arguments: dict[str, Any]) -> Thunk:
    """x [tokens, hidden], weight [experts, hidden], bias float32 [experts] -> weights float32 and
    ids int64 [tokens, top_k], the best first; constants as in the semantic op.

    Scratch: logits float32 [tokens, experts]. ``configuration`` overrides what was measured.
    """
    _check(arguments)
    x, weight, ids = arguments["x"], arguments["weight"], arguments["ids"]
    tokens, top_k = ids.shape
    experts, hidden = weight.shape
    key = f"{experts}x{hidden}k{top_k}"
    configuration = (
        arguments.get("configuration")
        or tuned_configuration("moe_gate", weight.dtype, key, tokens)
        or default(tokens)
    )
    groups = int(arguments["groups"])
    constants: dict[str, Any] = {
        "E": experts,
        "EXPERTS": max(power_of_two(experts), 2),
        "TOP_K": top_k,
        "PLACES": power_of_two(top_k),
        "GROUPS": groups,
        "TOP_GROUPS": int(arguments["top_groups"]),
        "SLOTS": power_of_two(groups),
        "FILL": float(arguments["group_fill"]),
        "NORMALIZE": bool(arguments["normalize"]),
        "EPS": float(arguments["normalize_eps"]),
        "pdl": pdl_enabled(x.device),
    }
    variant = configuration["variant"]
    if variant == "rows":
        return _bind_rows(arguments, configuration, constants)
    if variant == "library":
        return _bind_library(arguments, constants)
    raise PlanError(f"there is no variant '{variant}' to score experts", expected="rows or library")


def _bind_rows(arguments: dict[str, Any], c: Configuration, constants: dict[str, Any]) -> Thunk:
    names = ("x", "weight", "bias", "logits", "weights", "ids")
    tensors = tuple(arguments[name] for name in names)
    x, weight = tensors[:2]
    tokens, hidden = x.shape
    grid = (triton.cdiv(weight.shape[0], c["block_e"]), tokens)
    counters = workspace.arrival_counters(x.device, tokens)
    operands = (*tensors, counters, float(arguments["scale"]))
    meta = {
        **constants,
        "H": hidden,
        "HIDDEN": power_of_two(hidden),
        "BLOCK_E": c["block_e"],
        "num_warps": c["warps"],
    }

    def run() -> None:
        launch(gate_rows_kernel, grid, *operands, **meta)

    return run


def _in_float32(weight: torch.Tensor) -> torch.Tensor:
    """The weight in float32: one copy for all sizes of a step, which lives as long as the weight
    and is made again after a change in place."""
    if weight.dtype == torch.float32:
        return weight
    version = None if weight.is_inference() else weight._version
    kept: tuple[int | None, torch.Tensor] | None = getattr(weight, _WIDENED, None)
    if kept is None or kept[0] != version:
        with torch.inference_mode(False):
            kept = (version, weight.float())
        setattr(weight, _WIDENED, kept)
    return kept[1]


def _bind_library(arguments: dict[str, Any], constants: dict[str, Any]) -> Thunk:
    """cuBLAS in float32 on pieces of x that were cast to float32, then the choice."""
    x, logits = arguments["x"], arguments["logits"]
    tokens, hidden = x.shape
    transposed = _in_float32(arguments["weight"]).t()
    memory = workspace.floats(x.device, min(tokens, _CHUNK) * hidden).view(-1, hidden)
    steps: list[Thunk] = []
    for start in range(0, tokens, _CHUNK):
        rows, out = x[start : start + _CHUNK], logits[start : start + _CHUNK]
        if x.dtype != torch.float32:
            cast = memory[: rows.shape[0]]
            steps.append(partial(cast.copy_, rows))
            rows = cast
        steps.append(exact(partial(torch.mm, rows, transposed, out=out)))
    read = (logits, arguments["bias"], arguments["weights"], arguments["ids"])
    operands = (*read, tokens, float(arguments["scale"]))
    meta = {**constants, "BLOCK_T": 4, "num_warps": 4}
    grid = (triton.cdiv(tokens, 4),)
    return in_order(*steps, partial(launch, choose_kernel, grid, *operands, **meta))
