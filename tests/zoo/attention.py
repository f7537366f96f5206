"""A small attention block in exchangeable parts, and spellings of each part.

``Block`` embeds tokens, projects q, k and v, norms and rotates them, attends and projects back.
Every part is a function of the block, so that a spelling or a twist is one function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from glmc.ir.program import ModelShape, Program, graph_module
from glmc.ir.recipe import Constant, Recipe, Source, Weight
from glmc.passes import canonical, clean, rms_norm
from glmc.passes.base import Pass
from tests.support.quick_export import without_stack_traces
from tests.support.traced import Traced

HIDDEN, VOCABULARY = 32, 50


@dataclass(frozen=True)
class Sizes:
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    rotary_dim: int = 8
    scale: float | None = None  # None is head_dim^-0.5


Table = Callable[["Block", Tensor], tuple[Tensor, Tensor]]
Rotate = Callable[["Block", Tensor, Tensor, Tensor], Tensor]
Attend = Callable[["Block", Tensor, Tensor, Tensor, Tensor], Tensor]
Project = Callable[["Block", Tensor], tuple[Tensor, Tensor, Tensor]]


def plain_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].float() * block.frequencies
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def partial(block: Block, x: Tensor, rotated: Callable[[Tensor], Tensor]) -> Tensor:
    width = block.sizes.rotary_dim
    return torch.cat((rotated(x[..., :width]), x[..., width:]), -1)


def neox(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [batch, heads, tokens, head_dim], tables [batch, tokens, rotary_dim]."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return part * cos + torch.cat((-second, first), -1) * sin

    return partial(block, x, rotated)


def no_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """For blocks that rotate nothing: a table would only have to be traced."""
    return positions, positions


def project(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return block.q_proj(x), block.k_proj(x), block.v_proj(x)


def no_norm(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return q, k


def causal(tokens: Tensor) -> Tensor:
    at = torch.arange(tokens.shape[1])
    return (at[None, :] <= at[:, None])[None, None]


def repeated(block: Block, x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    times = block.sizes.heads // block.sizes.kv_heads
    if times == 1:
        return x
    x = x[:, :, None].expand(batch, heads, times, tokens, width)
    return x.reshape(batch, heads * times, tokens, width)


def sdpa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """The shortest spelling, which costs least to trace; the others are in attends.py."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def unrotated(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Parts:
    """One choice for each part of the block."""

    table: Table = plain_table
    rotate: Rotate = neox
    rotate_keys: Rotate | None = None  # None: as the queries
    attend: Attend = sdpa
    project: Project = project
    norm: Callable[[Block, Tensor, Tensor], tuple[Tensor, Tensor]] = no_norm
    heads_first: bool = True
    token_major: bool = False  # attend gives [batch, tokens, heads, head_dim]


class Norm(nn.Module):
    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter((1 + 0.1 * torch.randn(width)).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.float()
        hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * hidden.to(x.dtype)


class Block(nn.Module):
    """token_ids and positions int64 [batch, tokens] -> [batch, tokens, HIDDEN]."""

    frequencies: Tensor

    def __init__(self, parts: Parts, sizes: Sizes, dtype: torch.dtype, bias: bool = True) -> None:
        super().__init__()
        self.parts, self.sizes = parts, sizes
        self.scale = sizes.scale or sizes.head_dim**-0.5
        width = sizes.heads * sizes.head_dim
        kv_width = sizes.kv_heads * sizes.head_dim
        self.embed = nn.Embedding(VOCABULARY, HIDDEN, dtype=dtype)
        self.q_proj = nn.Linear(HIDDEN, width, bias=bias, dtype=dtype)
        self.k_proj = nn.Linear(HIDDEN, kv_width, bias=bias, dtype=dtype)
        self.v_proj = nn.Linear(HIDDEN, kv_width, bias=bias, dtype=dtype)
        self.o_proj = nn.Linear(width, HIDDEN, bias=False, dtype=dtype)
        self.q_norm, self.k_norm = Norm(sizes.head_dim, dtype), Norm(sizes.head_dim, dtype)
        self.wide_norm = Norm(width, dtype)
        self.learned = nn.Parameter(torch.randn(512, sizes.rotary_dim).to(dtype))
        self.factor = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        pairs = torch.arange(sizes.rotary_dim // 2)
        self.register_buffer("frequencies", 1.0 / 100.0 ** (pairs / max(len(pairs), 1)), False)
        self.trained = nn.Parameter(self.frequencies.clone())
        self.leaks: list[Tensor] = []

    def forward(self, token_ids: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        self.leaks = []
        batch, tokens = token_ids.shape
        x = self.embed(token_ids)
        q, k, v = self.parts.project(self, x)
        q, k, v = (each.view(batch, tokens, -1, self.sizes.head_dim) for each in (q, k, v))
        q, k = self.parts.norm(self, q, k)
        cos, sin = (each.to(x.dtype) for each in self.parts.table(self, positions))
        if self.parts.heads_first:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        q = self.parts.rotate(self, q, cos, sin)
        k = (self.parts.rotate_keys or self.parts.rotate)(self, k, cos, sin)
        if not self.parts.heads_first:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        out = self.parts.attend(self, q, k, v.transpose(1, 2), token_ids)
        if not self.parts.token_major:
            out = out.transpose(1, 2)
        out = self.o_proj(out.reshape(batch, tokens, -1))
        return out, *self.leaks


def traced(
    parts: Parts = Parts(),
    sizes: Sizes = Sizes(),
    dtype: torch.dtype = torch.float32,
    *,
    bias: bool = True,
    before: tuple[Pass, ...] = (),
) -> Traced:
    """The block as a program with symbolic batch and length, canonical, after ``before``."""
    kept = _traced(parts, sizes, dtype, bias)
    result = Traced(kept.program.copy(), kept.module)
    for each in before:
        result.apply(each)
    return result


@cache
def _traced(parts: Parts, sizes: Sizes, dtype: torch.dtype, bias: bool) -> Traced:
    result = exported(parts, sizes, dtype, bias)
    result.apply(canonical.PASS, clean.PASS, canonical.PASS, clean.PASS, rms_norm.PASS)
    return result


def exported(
    parts: Parts, sizes: Sizes = Sizes(), dtype: torch.dtype = torch.float32, bias: bool = True
) -> Traced:
    """The block as torch.export leaves it, before any pass."""
    torch.manual_seed(0)
    module = Block(parts, sizes, dtype, bias).eval()
    module.requires_grad_(False)
    example = torch.ones(2, 7, dtype=torch.int64)
    dynamic = ({0: Dim.AUTO, 1: Dim.AUTO},) * 2
    with torch.no_grad(), without_stack_traces(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.export.export(
            module, (example, example.clone()), strict=False, dynamic_shapes=dynamic
        ).run_decompositions({})
    specs = {spec.arg.name: spec for spec in found.graph_signature.input_specs}
    graph = Graph()
    copies: dict[Node, Node] = {}
    weights: dict[str, Weight] = {}
    for node in found.graph_module.graph.nodes:
        if "assert" in str(node.target):
            continue
        copy = copies[node] = graph.node_copy(node, lambda old: copies[old])
        copy.meta = {"val": node.meta.get("val"), "id": node.name, "source": None}
        copy.meta |= {"module": "", "layer": None}
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT:
            copy.meta["input"] = node.name
            continue
        name, value = str(spec.target), node.meta["val"]
        copy.meta["weight"] = copy.meta["id"] = name
        recipe: Recipe = Source(name, tuple(value.shape))
        if name == "frequencies":
            recipe = Constant(tuple(module.frequencies.double().tolist()))
        weights[name] = Weight(name, tuple(value.shape), value.dtype, recipe)
    model = ModelShape(
        "zoo", "zoo", 1, VOCABULARY, HIDDEN, sizes.heads, sizes.kv_heads, sizes.head_dim, 1 << 16,
        (), 0, False,
    )  # fmt: skip
    return Traced(Program(graph_module(graph), weights, model, dtype), module)


def inputs(batch: int = 2, tokens: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + tokens)
    ids = torch.randint(0, VOCABULARY, (batch, tokens), generator=generator)
    return ids, torch.arange(tokens).expand(batch, tokens).contiguous()
