"""Attention over keys and values in the program's own memory, under the program's mask.

What ``torch.compile`` hands over owns its cache, its padding and its mask. So this op takes all
three as they are; ``glmc.attention`` is the causal one without a cache.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.ir.ops.attention import attention_flops
from glmc.ir.ops.facts import KEYS, Cut, OpFacts, Sharding, key_heads, query_heads
from glmc.ir.ops.registry import Numerics, define


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool,
    safe_softmax: bool,
) -> Tensor:
    """q [batch, tokens, q_heads, head_dim]; k and v [batch, kv_heads, length, head_dim], of any
    strides; mask broadcasts to [batch, q_heads, tokens, length], bool (True: seen) or added to the
    scores. ``causal`` as ``is_causal`` of torch: query i sees keys 0 to i. ``safe_softmax``: a
    query whose keys the mask all hides (False, or -inf added) gives zeros, as torch's
    ``scaled_dot_product_attention``; without it NaN, as a softmax of nothing but -inf. Like q.
    """
    repeat = q.shape[2] // k.shape[1]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.repeat_interleave(repeat, 1),
        v.repeat_interleave(repeat, 1),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
    )
    if mask is not None and k.shape[2] and not safe_softmax:
        hidden = ~mask if mask.dtype == torch.bool else mask == -torch.inf
        out = out.masked_fill(hidden.all(-1, keepdim=True), torch.nan)
    return out.transpose(1, 2).contiguous()


MASKED_ATTENTION = define(
    "masked_attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, bool causal, "
    "bool safe_softmax) -> Tensor",
    Numerics.REORDERED,
    masked_attention,
    lambda q, k, v, mask, scale, causal, safe_softmax: q.new_empty(q.shape),
    OpFacts(
        tokens=None,
        summed=(("q", -1), KEYS),
        flops=lambda q, k: attention_flops(q, k.shape[2]),
        accessed={},
        shardings=(
            Sharding(
                "heads",
                {
                    "q": Cut(2, lambda q, k: [query_heads(q.shape[2], k.shape[1])]),
                    "k": Cut(1, lambda k: [key_heads(k.shape[1])]),
                    "v": Cut(1, lambda v: [key_heads(v.shape[1])]),
                    "mask": Cut(-3, lambda q, k: [query_heads(q.shape[2], k.shape[1])]),
                },
                (Cut(2, lambda q, k: [query_heads(q.shape[2], k.shape[1])]),),
            ),
        ),
        strided=("q", "k", "v", "mask"),
        scores=("q", "k"),
    ),
)
