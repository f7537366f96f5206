"""Named nodes that a marked capture leaves in place of attention and experts.

They stand in graphs only between capture and the passes ``attention`` and ``moe_ffn``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from glmc.ir.ops.attention import attention, attention_flops
from glmc.ir.ops.facts import KEYS, Cut, OpFacts, Sharding, key_heads, query_heads
from glmc.ir.ops.moe import EXPERTS, moe_ffn
from glmc.ir.ops.registry import Numerics, define


def marked_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal grouped-query attention as transformers calls it.

    q [batch, q_heads, tokens, head_dim], k and v [batch, kv_heads, tokens, head_dim]; the result
    is [batch, tokens, q_heads, head_dim].
    """
    return attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale)


def marked_experts(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The routed experts as transformers calls them; see :func:`glmc.ir.ops.moe.moe_ffn`."""
    return moe_ffn(x, weights, ids, gate_up, down)


# A marked capture is never dealt to ranks: moe_ffn comes first.
MARKED_FACTS = replace(EXPERTS, shardings=())

MARKED_ATTENTION = define(
    "marked_attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor",
    Numerics.REORDERED,
    marked_attention,
    lambda q, k, v, scale: q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3])),
    OpFacts(
        tokens=None,
        summed=(("q", -1), KEYS),
        flops=lambda q, k: attention_flops(q, k.shape[2]),
        accessed={},
        shardings=(
            Sharding(
                "heads",
                {
                    "q": Cut(1, lambda q, k: [query_heads(q.shape[1], k.shape[1])]),
                    "k": Cut(1, lambda k: [key_heads(k.shape[1])]),
                    "v": Cut(1, lambda v: [key_heads(v.shape[1])]),
                },
                (Cut(2, lambda q, k: [query_heads(q.shape[1], k.shape[1])]),),
            ),
        ),
        strided=(),
        scores=("q", "k"),
    ),
)
MARKED_EXPERTS = define(
    "marked_experts(Tensor x, Tensor ids, Tensor weights, Tensor gate_up, Tensor down) -> Tensor",
    Numerics.REORDERED,
    marked_experts,
    lambda x, ids, weights, gate_up, down: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    MARKED_FACTS,
)
