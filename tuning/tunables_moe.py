"""The routers and the experts of the presets, and of the shape that others publish, to be tuned."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from glmc_runtime.kernels.cuda.moe import router as moe_gate
from glmc_runtime.kernels.cuda.moe import select as moe_ffn
from glmc_runtime.kernels.cuda.moe.common import read_call
from tuning.shares import share
from tuning.tunable import Arguments, Tunable

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192)
TOP_K = 8
GATE_FOOTPRINT = 4_000_000  # a hundred copies of a router are larger than the caches


@dataclass(frozen=True)
class Shape:
    """The sizes of a mixture of experts; ``shared_width`` is 0 without a shared expert."""

    experts: int
    hidden: int
    width: int
    shared_width: int

    def of_rank(self, ranks: int) -> Shape:
        width, shared_width = share(self.width, ranks), share(self.shared_width, ranks)
        return replace(self, width=width, shared_width=shared_width)


SHAPES = (
    Shape(128, 4096, 1536, 0),  # as others publish
    Shape(128, 4096, 1408, 1408),  # GLM-4.5-Air
    Shape(160, 5120, 1536, 1536),  # GLM-4.5, 4.6 and 4.7
)


def spread_ids(
    tokens: int, experts: int, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """int64 [tokens, TOP_K]: drawn for each token, so that how many different experts there are and
    how many tokens each has are as a router's."""
    scores = torch.rand(tokens, experts, device=device, generator=generator)
    return scores.topk(TOP_K, -1)[1]


def experts_read(tokens: int, experts: int) -> float:
    """How many experts the ids of :func:`spread_ids` have, on average."""
    return experts * (1 - (1 - TOP_K / experts) ** tokens)


@functools.cache
def _memory(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers for gate_up and for down, enough for any width: shapes and copies share them."""
    generator = torch.Generator(device).manual_seed(1)
    size = max((s.experts + 1) * s.hidden * max(s.width, s.shared_width) for s in SHAPES)
    first = torch.empty(2 * size, dtype=dtype, device=device)
    second = torch.empty(size, dtype=dtype, device=device)
    hidden, width = min(s.hidden for s in SHAPES), max(s.width for s in SHAPES)
    first.normal_(0.0, hidden**-0.5, generator=generator)
    second.normal_(0.0, width**-0.5, generator=generator)
    return first, second


def _weights(
    shape: Shape, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor | None]:
    """The same in all copies: what a call reads differs by its experts."""
    first, second = _memory(dtype, device)
    experts, hidden, width = shape.experts, shape.hidden, shape.width
    shared_width = shape.shared_width
    up, down = first[: experts * 2 * width * hidden], second[: experts * width * hidden]
    weights: dict[str, torch.Tensor | None] = {
        "gate_up": up.view(experts, 2 * width, hidden),
        "down": down.view(experts, hidden, width),
        "shared_gate_up": None,
        "shared_down": None,
    }
    if shared_width:
        after_up, after_down = first[up.numel() :], second[down.numel() :]
        weights["shared_gate_up"] = after_up[: 2 * shared_width * hidden].view(-1, hidden)
        weights["shared_down"] = after_down[: shared_width * hidden].view(hidden, -1)
    return weights


def _make_ffn(
    sizes: Shape,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Arguments:
    shape = (tokens, sizes.hidden)
    weights = torch.rand(tokens, TOP_K, device=device, generator=generator)
    return {
        **_weights(sizes, dtype, device),
        "x": torch.randn(shape, dtype=dtype, device=device, generator=generator),
        "weights": weights / weights.sum(-1, keepdim=True),
        "ids": spread_ids(tokens, sizes.experts, device, generator),
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


def _ffn_candidates(sizes: Shape, tokens: int, dtype: torch.dtype) -> list[dict[str, object]]:
    """Of a call without memory: candidates follow from sizes alone."""
    device = torch.device("meta")
    experts, hidden, width = sizes.experts, sizes.hidden, sizes.width

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    arguments: Arguments = {
        "x": empty(tokens, hidden),
        "weights": torch.empty(tokens, TOP_K, device=device),
        "ids": torch.empty(tokens, TOP_K, dtype=torch.int64, device=device),
        "gate_up": empty(experts, 2 * width, hidden),
        "down": empty(experts, hidden, width),
        "out": empty(tokens, hidden),
    }
    if sizes.shared_width:
        arguments["shared_gate_up"] = empty(2 * sizes.shared_width, hidden)
        arguments["shared_down"] = empty(hidden, sizes.shared_width)
    return list(moe_ffn.candidates(read_call(arguments)))


def _ffn(sizes: Shape, tokens: int, dtype: torch.dtype) -> Tunable:
    used_experts = experts_read(tokens, sizes.experts)
    columns = used_experts * sizes.width + sizes.shared_width
    elements = 3 * sizes.hidden * columns + 2 * tokens * sizes.hidden
    return Tunable(
        kernel="moe_ffn",
        key=f"{sizes.experts}x{sizes.width}x{sizes.hidden}k{TOP_K}",
        rows=tokens,
        dtype=dtype,
        bytes=round(elements * dtype.itemsize),
        make=partial(_make_ffn, sizes, tokens, dtype),
        reference=_reference_ffn,
        candidates=partial(_ffn_candidates, sizes, tokens, dtype),
        library={"variant": "grouped_mm"} if tokens >= 64 else None,
    )


def _make_gate(
    experts: int,
    hidden: int,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Arguments:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator)

    def poisoned(*shape: int) -> torch.Tensor:
        return torch.full(shape, torch.nan, device=device)

    return {
        "x": draw(tokens, hidden).to(dtype),
        "weight": (draw(experts, hidden) * hidden**-0.5).to(dtype),
        "bias": draw(experts) / 8,
        "groups": 1,
        "top_groups": 1,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 1.0,
        "logits": poisoned(tokens, experts),
        "weights": poisoned(tokens, TOP_K),
        "ids": torch.full((tokens, TOP_K), -1, device=device),
    }


def _reference_gate(arguments: Arguments) -> dict[str, torch.Tensor]:
    logits = arguments["x"].double() @ arguments["weight"].double().t()
    scores = logits.sigmoid()
    ids = (scores + arguments["bias"]).topk(TOP_K, -1)[1]
    weights = scores.gather(1, ids)
    return {"logits": logits, "weights": weights / weights.sum(-1, keepdim=True), "ids": ids}


def _gate(experts: int, hidden: int, tokens: int, dtype: torch.dtype) -> Tunable:
    size = (experts + tokens) * hidden * dtype.itemsize + tokens * (experts * 4 + TOP_K * 12)
    return Tunable(
        kernel="moe_gate",
        key=f"{experts}x{hidden}k{TOP_K}",
        rows=tokens,
        dtype=dtype,
        bytes=size,
        make=partial(_make_gate, experts, hidden, tokens, dtype),
        reference=_reference_gate,
        candidates=partial(moe_gate.candidates, tokens),
        tolerance=1e-4,
        footprint=max(size, GATE_FOOTPRINT),
    )


def tunables(ranks: Sequence[int] = (1,)) -> list[Tunable]:
    """In bfloat16, one width after the other, because each has its weights. Every rank has all
    experts, each of a part of its width, and the whole router."""
    dtype = torch.bfloat16
    routers = dict.fromkeys((shape.experts, shape.hidden) for shape in SHAPES)
    gates = [_gate(*sizes, tokens, dtype) for sizes in routers for tokens in ROWS]
    shapes = [shape.of_rank(count) for count in ranks for shape in SHAPES]
    return gates + [_ffn(shape, tokens, dtype) for shape in shapes for tokens in ROWS]
