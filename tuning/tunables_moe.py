"""The router and the experts of GLM-4.5-Air, and of the shape that others publish, to be tuned."""

from __future__ import annotations

import functools
from functools import partial

import torch
import torch.nn.functional as F

from glmc_runtime.kernels.cuda.moe import router as moe_gate
from glmc_runtime.kernels.cuda.moe import select as moe_ffn
from glmc_runtime.kernels.cuda.moe.common import read_call
from tuning.tunable import Arguments, Tunable

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048, 8192)
EXPERTS, HIDDEN, TOP_K = 128, 4096, 8
SHAPES = ((1536, 0), (1408, 1408))  # (width, shared width): as published, GLM-4.5-Air
GATE_FOOTPRINT = 4_000_000  # a hundred copies of a router are larger than the caches


def distinct_ids(tokens: int, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """int64 [tokens, TOP_K]: as many different experts as there can be, each equally often."""
    rounds = -(-tokens * TOP_K // EXPERTS)
    orders = [torch.randperm(EXPERTS, device=device, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[: tokens * TOP_K].view(tokens, TOP_K).contiguous()


@functools.cache
def _memory(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers for gate_up and for down, enough for any width: shapes and copies share them."""
    generator = torch.Generator(device).manual_seed(1)
    widest = max(width for width, _ in SHAPES)
    size = (EXPERTS + 1) * HIDDEN * widest
    first = torch.empty(2 * size, dtype=dtype, device=device)
    second = torch.empty(size, dtype=dtype, device=device)
    first.normal_(0.0, HIDDEN**-0.5, generator=generator)
    second.normal_(0.0, widest**-0.5, generator=generator)
    return first, second


def _weights(
    width: int, shared_width: int, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor | None]:
    """The same in all copies: what a call reads differs by its experts."""
    first, second = _memory(dtype, device)
    up, down = first[: EXPERTS * 2 * width * HIDDEN], second[: EXPERTS * width * HIDDEN]
    weights: dict[str, torch.Tensor | None] = {
        "gate_up": up.view(EXPERTS, 2 * width, HIDDEN),
        "down": down.view(EXPERTS, HIDDEN, width),
        "shared_gate_up": None,
        "shared_down": None,
    }
    if shared_width:
        after_up, after_down = first[up.numel() :], second[down.numel() :]
        weights["shared_gate_up"] = after_up[: 2 * shared_width * HIDDEN].view(-1, HIDDEN)
        weights["shared_down"] = after_down[: shared_width * HIDDEN].view(HIDDEN, -1)
    return weights


def _make_ffn(
    width: int,
    shared_width: int,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Arguments:
    shape = (tokens, HIDDEN)
    weights = torch.rand(tokens, TOP_K, device=device, generator=generator)
    return {
        **_weights(width, shared_width, dtype, device),
        "x": torch.randn(shape, dtype=dtype, device=device, generator=generator),
        "weights": weights / weights.sum(-1, keepdim=True),
        "ids": distinct_ids(tokens, device, generator),
        "out": torch.full(shape, torch.nan, dtype=dtype, device=device),
    }


def _expert(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    gate, up = (x @ gate_up.float().t()).chunk(2, -1)
    return (F.silu(gate) * up) @ down.float().t()


def _reference_ffn(arguments: Arguments) -> dict[str, torch.Tensor]:
    x, ids, weights = arguments["x"].float(), arguments["ids"], arguments["weights"]
    out = torch.zeros_like(x)
    for expert in ids.unique().tolist():
        token, slot = torch.where(ids == expert)
        result = _expert(x[token], arguments["gate_up"][expert], arguments["down"][expert])
        out.index_add_(0, token, result * weights[token, slot].unsqueeze(-1))
    if arguments["shared_down"] is not None:
        out += _expert(x, arguments["shared_gate_up"], arguments["shared_down"])
    return {"out": out}


def _ffn_candidates(
    width: int, shared_width: int, tokens: int, dtype: torch.dtype
) -> list[dict[str, object]]:
    """Of a call without memory: candidates follow from sizes alone."""
    device = torch.device("meta")

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    arguments: Arguments = {
        "x": empty(tokens, HIDDEN),
        "weights": torch.empty(tokens, TOP_K, device=device),
        "ids": torch.empty(tokens, TOP_K, dtype=torch.int64, device=device),
        "gate_up": empty(EXPERTS, 2 * width, HIDDEN),
        "down": empty(EXPERTS, HIDDEN, width),
        "out": empty(tokens, HIDDEN),
    }
    if shared_width:
        arguments["shared_gate_up"] = empty(2 * shared_width, HIDDEN)
        arguments["shared_down"] = empty(HIDDEN, shared_width)
    return list(moe_ffn.candidates(read_call(arguments)))


def _ffn(width: int, shared_width: int, tokens: int, dtype: torch.dtype) -> Tunable:
    used_experts = min(tokens * TOP_K, EXPERTS)
    elements = 3 * HIDDEN * (used_experts * width + shared_width) + 2 * tokens * HIDDEN
    return Tunable(
        kernel="moe_ffn",
        key=f"{EXPERTS}x{width}x{HIDDEN}k{TOP_K}",
        rows=tokens,
        dtype=dtype,
        bytes=elements * dtype.itemsize,
        make=partial(_make_ffn, width, shared_width, tokens, dtype),
        reference=_reference_ffn,
        candidates=partial(_ffn_candidates, width, shared_width, tokens, dtype),
        library={"variant": "grouped_mm"} if tokens >= 64 else None,
    )


def _make_gate(
    tokens: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Arguments:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator)

    def poisoned(*shape: int) -> torch.Tensor:
        return torch.full(shape, torch.nan, device=device)

    return {
        "x": draw(tokens, HIDDEN).to(dtype),
        "weight": (draw(EXPERTS, HIDDEN) * HIDDEN**-0.5).to(dtype),
        "bias": draw(EXPERTS) / 8,
        "groups": 1,
        "top_groups": 1,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 1.0,
        "logits": poisoned(tokens, EXPERTS),
        "weights": poisoned(tokens, TOP_K),
        "ids": torch.full((tokens, TOP_K), -1, device=device),
    }


def _reference_gate(arguments: Arguments) -> dict[str, torch.Tensor]:
    logits = arguments["x"].double() @ arguments["weight"].double().t()
    scores = logits.sigmoid()
    ids = (scores + arguments["bias"]).topk(TOP_K, -1)[1]
    weights = scores.gather(1, ids)
    return {"logits": logits, "weights": weights / weights.sum(-1, keepdim=True), "ids": ids}


def _gate(tokens: int, dtype: torch.dtype) -> Tunable:
    size = (EXPERTS + tokens) * HIDDEN * dtype.itemsize + tokens * (EXPERTS * 4 + TOP_K * 12)
    return Tunable(
        kernel="moe_gate",
        key=f"{EXPERTS}x{HIDDEN}k{TOP_K}",
        rows=tokens,
        dtype=dtype,
        bytes=size,
        make=partial(_make_gate, tokens, dtype),
        reference=_reference_gate,
        candidates=partial(moe_gate.candidates, tokens, EXPERTS),
        tolerance=1e-4,
        footprint=max(size, GATE_FOOTPRINT),
    )


def tunables() -> list[Tunable]:
    """In bfloat16, one width after the other, because each has its weights."""
    dtype = torch.bfloat16
    gates = [_gate(tokens, dtype) for tokens in ROWS]
    return gates + [_ffn(*shape, tokens, dtype) for shape in SHAPES for tokens in ROWS]
