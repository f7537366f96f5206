"""Attention: stateless and causal as captured, then over a paged cache."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.ir.ops.facts import KEYS, Cut, OpFacts, Sharding, key_heads, no_flops, query_heads
from glmc.ir.ops.linear import qkv_columns
from glmc.ir.ops.norms import rms_norm
from glmc.ir.ops.registry import Numerics, define
from glmc.ir.ops.rotary import rope


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a key may be seen; the queries are the last positions of the keys."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Attention of q, k and v [..., heads, tokens, head_dim] under a mask, with a scale."""


def in_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As one op of torch, which rounds its result alone."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As kernels have it that never hold all scores, which round the weights to their dtype."""
    scores = (q.float() @ k.float().transpose(-2, -1) * scale).masked_fill(~mask, -math.inf)
    return (F.softmax(scores, -1).to(q.dtype).float() @ v.float()).to(q.dtype)


def as_eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As eager code of the models has it, which rounds scores and weights to their dtype."""
    scores = (q @ k.transpose(-2, -1) * scale).masked_fill(~mask, -math.inf)
    return F.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v


def _grouped(q: Tensor, k: Tensor, v: Tensor, scale: float, attend: Attend) -> Tensor:
    """q [..., queries, q_heads, head_dim], k and v [..., keys, kv_heads, head_dim]."""
    repeat = q.shape[-2] // k.shape[-2]
    q, k, v = (tensor.transpose(-3, -2) for tensor in (q, k, v))
    k, v = k.repeat_interleave(repeat, -3), v.repeat_interleave(repeat, -3)
    mask = causal_mask(q.shape[-2], k.shape[-2], q.device)
    return attend(q, k, v, mask, scale).transpose(-3, -2).contiguous()


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, attend: Attend = in_one) -> Tensor:
    """Causal grouped-query attention without a cache.

    q [batch, tokens, q_heads, head_dim], k and v [batch, tokens, kv_heads, head_dim]; like q.
    """
    return _grouped(q, k, v, scale, attend)


def qkv_rope_cache(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    positions: Tensor,
    inverse_frequencies: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    interleaved: bool,
    rope_scaling: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv, norm each head of q and k when there are norm weights, rotate, write the cache.

    qkv [tokens, (q_heads + 2 * kv_heads) * head_dim], norms [head_dim] or both None, positions
    and slot_mapping int64 [tokens], caches [blocks, kv_heads, block_size, head_dim]. Returns q
    [tokens, q_heads, head_dim] and the caches with the slots written.
    """
    tokens = qkv.shape[0]
    sizes = [q_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    q, k, v = (part.reshape(tokens, -1, head_dim) for part in qkv.split(sizes, -1))
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, norm_eps), rms_norm(k, k_norm, norm_eps)
    q = rope(q, positions, inverse_frequencies, interleaved, rope_scaling)
    k = rope(k, positions, inverse_frequencies, interleaved, rope_scaling)
    block_size = k_cache.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    k_cache[blocks, :, offsets] = k
    v_cache[blocks, :, offsets] = v
    return q, k_cache, v_cache


def gather_cache(cache: Tensor, block_table: Tensor, length: int) -> Tensor:
    """The first ``length`` tokens of one sequence as [length, kv_heads, head_dim]."""
    block_size = cache.shape[2]
    blocks = block_table[: -(-length // block_size)].long()
    return cache[blocks].transpose(1, 2).reshape(-1, *cache.shape[1:2], cache.shape[3])[:length]


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    attend: Attend = in_one,
) -> Tensor:
    """Causal attention of packed sequences over the paged cache.

    q [tokens, q_heads, head_dim]; block_tables int32 [sequences, blocks_per_sequence]; cu_seqlens_q
    and cu_seqlens_k int32 [sequences + 1], prefix sums of new tokens and of all tokens. The
    queries of a sequence are its last positions. Rows beyond cu_seqlens_q[-1] come out as zero.
    """
    out = torch.zeros_like(q)
    query_bounds, context_bounds = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for index in range(len(query_bounds) - 1):
        start, stop = query_bounds[index], query_bounds[index + 1]
        length = context_bounds[index + 1] - context_bounds[index]
        keys = gather_cache(k_cache, block_tables[index], length)
        values = gather_cache(v_cache, block_tables[index], length)
        out[start:stop] = _grouped(q[start:stop], keys, values, scale, attend)
    return out


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lengths: Tensor,
    scale: float,
    attend: Attend = in_one,
) -> Tensor:
    """One query per sequence: q [sequences, q_heads, head_dim], context_lengths int32
    [sequences] with the new token counted."""
    out = torch.empty_like(q)
    for index, length in enumerate(context_lengths.tolist()):
        keys = gather_cache(k_cache, block_tables[index], length)
        values = gather_cache(v_cache, block_tables[index], length)
        query = q[index : index + 1]
        out[index : index + 1] = _grouped(query, keys, values, scale, attend)
    return out


def rope_decode_attention(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    positions: Tensor,
    inverse_frequencies: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    interleaved: bool,
    rope_scaling: float,
    norm_eps: float,
    block_tables: Tensor,
    context_lengths: Tensor,
    scale: float,
    attend: Attend = in_one,
) -> tuple[Tensor, Tensor, Tensor]:
    """``qkv_rope_cache`` and the ``decode_attention`` that reads it.

    Returns the attended [sequences, q_heads, head_dim] and the caches with the slots written.
    """
    query, k_cache, v_cache = qkv_rope_cache(
        qkv,
        q_norm,
        k_norm,
        positions,
        inverse_frequencies,
        slot_mapping,
        k_cache,
        v_cache,
        q_heads,
        kv_heads,
        head_dim,
        interleaved,
        rope_scaling,
        norm_eps,
    )
    out = decode_attention(query, k_cache, v_cache, block_tables, context_lengths, scale, attend)
    return out, k_cache, v_cache


def _qkv_rope_cache_fake(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    positions: Tensor,
    inverse_frequencies: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    query = qkv.new_empty((qkv.shape[0], q_heads, head_dim))
    return query, torch.empty_like(k_cache), torch.empty_like(v_cache)


def attention_flops(q: Tensor, keys: int) -> int:
    """Of the scores and the weighted sum of ``keys`` keys for each query. A causal query sees
    about half of the keys; that is not counted, as torch does not count it."""
    return 4 * q.numel() * keys


def _keys(cache: Tensor, block_tables: Tensor) -> int:
    """Keys that a row of the block tables has room for."""
    return block_tables.shape[1] * cache.shape[2]


def _context(cache: Tensor, block_tables: Tensor) -> int:
    """Elements of a cache that full block tables name."""
    return block_tables.numel() * cache[0].numel()


def _written(qkv: Tensor, kv_heads: int, head_dim: int) -> int:
    return qkv.shape[0] * kv_heads * head_dim


def _context_beside_written(
    qkv: Tensor, k_cache: Tensor, block_tables: Tensor, kv_heads: int, head_dim: int
) -> int:
    return _context(k_cache, block_tables) - _written(qkv, kv_heads, head_dim)


def _rope_decode_flops(
    qkv: Tensor, k_cache: Tensor, block_tables: Tensor, q_heads: int, head_dim: int
) -> int:
    return 4 * qkv.shape[0] * q_heads * head_dim * _keys(k_cache, block_tables)


_KEYS = Cut(1, lambda k_cache: [key_heads(k_cache.shape[1])])
_PAGED = OpFacts(
    tokens=None,
    summed=(("q", -1), KEYS),
    flops=lambda q, k_cache, block_tables: attention_flops(q, _keys(k_cache, block_tables)),
    accessed={
        "k_cache": lambda k_cache, block_tables: _context(k_cache, block_tables),
        "v_cache": lambda v_cache, block_tables: _context(v_cache, block_tables),
    },
    shardings=(
        Sharding(
            "heads",
            {
                "q": Cut(1, lambda q, k_cache: [query_heads(q.shape[1], k_cache.shape[1])]),
                "k_cache": _KEYS,
                "v_cache": _KEYS,
            },
            (Cut(1, lambda q, k_cache: [query_heads(q.shape[1], k_cache.shape[1])]),),
        ),
    ),
    strided=(),
    scores=("q", "k_cache"),
)
_BY_QKV_HEAD = Sharding(
    "heads",
    {"qkv": Cut(-1, qkv_columns), "k_cache": _KEYS, "v_cache": _KEYS},
    (Cut(1, lambda q_heads, kv_heads: [query_heads(q_heads, kv_heads)]), _KEYS, _KEYS),
    divided={
        "q_heads": lambda q_heads, kv_heads: [query_heads(q_heads, kv_heads)],
        "kv_heads": lambda kv_heads: [key_heads(kv_heads)],
    },
)

ATTENTION = define(
    "attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor",
    Numerics.REORDERED,
    attention,
    lambda q, k, v, scale: q.new_empty(q.shape),
    OpFacts(
        tokens=None,
        summed=(("q", -1), KEYS),
        flops=lambda q, k: attention_flops(q, k.shape[1]),
        accessed={},
        shardings=(
            Sharding(
                "heads",
                {
                    "q": Cut(2, lambda q, k: [query_heads(q.shape[2], k.shape[2])]),
                    "k": Cut(2, lambda k: [key_heads(k.shape[2])]),
                    "v": Cut(2, lambda v: [key_heads(v.shape[2])]),
                },
                (Cut(2, lambda q, k: [query_heads(q.shape[2], k.shape[2])]),),
            ),
        ),
        strided=(),
        scores=("q", "k"),
    ),
)
QKV_ROPE_CACHE = define(
    "qkv_rope_cache(Tensor qkv, Tensor? q_norm, Tensor? k_norm, Tensor positions, "
    "Tensor inverse_frequencies, Tensor slot_mapping, Tensor k_cache, Tensor v_cache, "
    "int q_heads, int kv_heads, int head_dim, bool interleaved, float rope_scaling, "
    "float norm_eps) -> (Tensor, Tensor, Tensor)",
    Numerics.BITWISE,
    qkv_rope_cache,
    _qkv_rope_cache_fake,
    OpFacts(
        tokens=None,
        summed=(),  # but for the norm of a head, whose order no packing changes
        flops=no_flops,
        accessed={"k_cache": no_flops, "v_cache": no_flops, "out.1": _written, "out.2": _written},
        shardings=(_BY_QKV_HEAD,),
        strided=(),
    ),
)
PREFILL_ATTENTION = define(
    "prefill_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_tables, "
    "Tensor cu_seqlens_q, Tensor cu_seqlens_k, float scale) -> Tensor",
    Numerics.REORDERED,
    prefill_attention,
    lambda q, k_cache, v_cache, block_tables, cu_seqlens_q, cu_seqlens_k, scale: q.new_empty(
        q.shape
    ),
    _PAGED,
)
DECODE_ATTENTION = define(
    "decode_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_tables, "
    "Tensor context_lengths, float scale) -> Tensor",
    Numerics.REORDERED,
    decode_attention,
    lambda q, k_cache, v_cache, block_tables, context_lengths, scale: q.new_empty(q.shape),
    _PAGED,
)
ROPE_DECODE_ATTENTION = define(
    "rope_decode_attention(Tensor qkv, Tensor? q_norm, Tensor? k_norm, Tensor positions, "
    "Tensor inverse_frequencies, Tensor slot_mapping, Tensor k_cache, Tensor v_cache, "
    "int q_heads, int kv_heads, int head_dim, bool interleaved, float rope_scaling, "
    "float norm_eps, Tensor block_tables, Tensor context_lengths, float scale) "
    "-> (Tensor, Tensor, Tensor)",
    Numerics.REORDERED,
    rope_decode_attention,
    _qkv_rope_cache_fake,
    OpFacts(
        tokens=None,
        summed=(("q_norm", -1), ("k_cache", -1), KEYS),
        flops=_rope_decode_flops,
        accessed={
            "k_cache": _context_beside_written,
            "v_cache": _context_beside_written,
            "out.1": _written,
            "out.2": _written,
        },
        shardings=(_BY_QKV_HEAD,),
        strided=(),
    ),
)
