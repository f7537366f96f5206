"""Embedding, linear, SwiGLU, columns side by side, and the choice of rows before the head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.ir.layout import Section
from glmc.ir.ops.facts import (
    Cut,
    OpFacts,
    Sharding,
    key_heads,
    no_flops,
    query_heads,
)
from glmc.ir.ops.registry import Numerics, define


def embedding(token_ids: Tensor, weight: Tensor) -> Tensor:
    """token_ids int64 [...], weight [vocabulary, hidden] -> [..., hidden]."""
    return F.embedding(token_ids, weight)


def local_embedding(token_ids: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    """``embedding`` of the ids whose rows are in ``weight`` [rows, hidden], the vocabulary's from
    ``first`` (int64 [1]) on; zeros for all others."""
    rows = token_ids - first
    elsewhere = (rows < 0) | (rows >= weight.shape[0])
    return F.embedding(rows.masked_fill(elsewhere, 0), weight).masked_fill(
        elsewhere.unsqueeze(-1), 0
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in], weight [out, in], bias [out] or None -> [..., out]."""
    return F.linear(x, weight, bias)


def swiglu(x: Tensor) -> Tensor:
    """x [..., 2 * width] -> [..., width]: silu of the first half times the second half."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def linear_swiglu(x: Tensor, weight: Tensor) -> Tensor:
    """``swiglu(linear(x, weight, None))``: x [..., in], weight [2 * width, in] -> [..., width]."""
    return swiglu(F.linear(x, weight))


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two separate tensors of one shape."""
    return F.silu(gate) * up


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [tokens, width], rows int64 [sequences] -> [sequences, width]."""
    return x.index_select(0, rows)


def join_qkv(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[tokens, heads, head_dim] each -> [tokens, all heads * head_dim]: q, then k, then v."""
    return torch.cat([part.flatten(1) for part in (q, k, v)], 1)


def qkv_columns(q_heads: int, kv_heads: int, head_dim: int) -> list[Section]:
    """The columns of q, k and v side by side, dealt by heads."""
    keys = key_heads(kv_heads, head_dim)
    return [query_heads(q_heads, kv_heads, head_dim), keys, keys]


def linear_flops(x: Tensor, weight: Tensor) -> int:
    """Of ``linear(x, weight)``."""
    return 2 * x.numel() * weight.shape[0]


EMBEDDING = define(
    "embedding(Tensor token_ids, Tensor weight) -> Tensor",
    Numerics.BITWISE,
    embedding,
    lambda token_ids, weight: weight.new_empty((*token_ids.shape, weight.shape[1])),
    OpFacts(
        tokens=("token_ids",),
        summed=(),
        flops=no_flops,
        accessed={"weight": lambda token_ids, weight: token_ids.numel() * weight.shape[1]},
        shardings=(
            Sharding("column", {"weight": Cut(1)}, (Cut(-1),)),
            Sharding(
                "vocabulary",
                {"weight": Cut(0)},
                ("sum",),
                index="token_ids",
                op="local_embedding",
            ),
        ),
        strided=(),
    ),
)
LOCAL_EMBEDDING = define(
    "local_embedding(Tensor token_ids, Tensor weight, Tensor first) -> Tensor",
    Numerics.BITWISE,
    local_embedding,
    lambda token_ids, weight, first: weight.new_empty((*token_ids.shape, weight.shape[1])),
    OpFacts(
        tokens=("token_ids",),
        summed=(),
        flops=no_flops,
        accessed={"weight": lambda token_ids, weight: token_ids.numel() * weight.shape[1]},
        shardings=(),
        strided=(),
    ),
)
LINEAR = define(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    Numerics.BITWISE,
    linear,
    lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])),
    OpFacts(
        tokens=("x",),
        summed=(("weight", -1),),
        flops=linear_flops,
        accessed={},
        shardings=(
            Sharding("column", {"weight": Cut(0), "bias": Cut(0)}, (Cut(-1),)),
            Sharding("row", {"x": Cut(-1), "weight": Cut(1), "bias": "first"}, ("sum",)),
        ),
        strided=(),
    ),
)
SWIGLU = define(
    "swiglu(Tensor x) -> Tensor",
    Numerics.BITWISE,
    swiglu,
    lambda x: x.new_empty((*x.shape[:-1], x.shape[-1] // 2)),
    OpFacts(
        tokens=("x",),
        summed=(),
        flops=no_flops,
        accessed={},
        shardings=(Sharding("column", {"x": Cut(-1, sections=2)}, (Cut(-1),)),),
        strided=(),
    ),
)
LINEAR_SWIGLU = define(
    "linear_swiglu(Tensor x, Tensor weight) -> Tensor",
    Numerics.BITWISE,
    linear_swiglu,
    lambda x, weight: x.new_empty((*x.shape[:-1], weight.shape[0] // 2)),
    OpFacts(
        tokens=("x",),
        summed=(("weight", -1),),
        flops=linear_flops,
        accessed={},
        shardings=(Sharding("column", {"weight": Cut(0, sections=2)}, (Cut(-1),)),),
        strided=(),
    ),
)
SILU_MUL = define(
    "silu_mul(Tensor gate, Tensor up) -> Tensor",
    Numerics.BITWISE,
    silu_mul,
    lambda gate, up: torch.empty_like(gate, memory_format=torch.contiguous_format),
    OpFacts(
        tokens=("gate", "up"),
        summed=(),
        flops=no_flops,
        accessed={},
        shardings=(Sharding("column", {"gate": Cut(-1), "up": Cut(-1)}, (Cut(-1),)),),
        strided=(),
    ),
)
SELECT_ROWS = define(
    "select_rows(Tensor x, Tensor rows) -> Tensor",
    Numerics.BITWISE,
    select_rows,
    lambda x, rows: x.new_empty((rows.shape[0], *x.shape[1:])),
    OpFacts(
        tokens=None,
        summed=(),
        flops=no_flops,
        accessed={"x": lambda x, rows: rows.shape[0] * x.shape[1]},
        shardings=(Sharding("column", {"x": Cut(-1)}, (Cut(-1),)),),
        strided=(),
    ),
)
JOIN_QKV = define(
    "join_qkv(Tensor q, Tensor k, Tensor v) -> Tensor",
    Numerics.BITWISE,
    join_qkv,
    lambda q, k, v: q.new_empty(
        (q.shape[0], q.shape[1] * q.shape[2] + 2 * k.shape[1] * k.shape[2])
    ),
    OpFacts(
        tokens=("q", "k", "v"),
        summed=(),
        flops=no_flops,
        accessed={},
        shardings=(
            Sharding(
                "heads",
                {
                    "q": Cut(1, lambda q, k: [query_heads(q.shape[1], k.shape[1])]),
                    "k": Cut(1, lambda k: [key_heads(k.shape[1])]),
                    "v": Cut(1, lambda v: [key_heads(v.shape[1])]),
                },
                (Cut(-1, lambda q, k: qkv_columns(q.shape[1], k.shape[1], q.shape[2])),),
            ),
        ),
        strided=(),
    ),
)
