"""Small operands of each semantic op, for tests that run all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glmc.ir.ops import OPS, SemanticOp
from glmc.ir.ops.collectives import is_collective

TOKENS, HIDDEN, WIDTH, EXPERTS, TOP_K, HEADS, KV_HEADS, HEAD_DIM = 4, 6, 8, 8, 2, 4, 2, 6
BLOCK_SIZE, BLOCKS = 2, 8

OURS = tuple(
    name
    for name, op in OPS.items()
    if op.reference.__module__.startswith("glmc.ir.ops.") and not is_collective(name)
)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=_RANDOM).to(dtype)


def arguments(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of an op by name: each expert, slot and block at most once, full block tables."""
    _RANDOM.manual_seed(len(name))

    def x(*shape: int) -> Tensor:
        return normal(*shape, dtype=dtype)

    order = torch.randperm(EXPERTS, generator=_RANDOM)
    routed = {
        "x": x(TOKENS, HIDDEN),
        "weights": torch.rand(TOKENS, TOP_K, generator=_RANDOM),
        "ids": order.view(TOKENS, TOP_K),
        "gate_up": x(EXPERTS, 2 * WIDTH, HIDDEN),
        "down": x(EXPERTS, HIDDEN, WIDTH),
    }
    shared = {"gate_up": x(2 * WIDTH, HIDDEN), "down": x(HIDDEN, WIDTH)}
    cache = {key: x(BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_DIM) for key in ("k_cache", "v_cache")}
    tables = torch.arange(BLOCKS, dtype=torch.int32).view(TOKENS, 2)
    # Each token is the last of a sequence that fills its block table.
    lengths = torch.full((TOKENS,), 2 * BLOCK_SIZE, dtype=torch.int32)
    bounds = torch.arange(TOKENS + 1, dtype=torch.int32)
    heads = {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    rope = {
        "positions": torch.tensor([3, 0, 7, 2]),
        "inverse_frequencies": torch.tensor([1.0, 0.1]),
        "interleaved": True,
    }
    qkv = {
        "qkv": x(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
        "q_norm": x(HEAD_DIM),
        "k_norm": x(HEAD_DIM),
        **rope,
        "slot_mapping": tables.long()[:, 1] * BLOCK_SIZE + 1,
        **cache,
        **heads,
        "rope_scaling": 1.0,
        "norm_eps": 1e-5,
    }
    by_head = x(TOKENS, HEADS, HEAD_DIM)
    norm = {"x": x(TOKENS, HIDDEN), "weight": x(HIDDEN), "eps": 1e-5}
    total = {**norm, "residual": x(TOKENS, HIDDEN)}
    known: dict[str, dict[str, Any]] = {
        "rms_norm": {"x": by_head, "weight": x(HEAD_DIM), "eps": 1e-5},
        "add_rms_norm": total,
        "norm_add_rms_norm": {**total, "norm_weight": x(HIDDEN), "norm_eps": 1e-5},
        "embedding": {"token_ids": torch.tensor([5, 0, 3, 2]), "weight": x(8, HIDDEN)},
        "linear": {"x": x(TOKENS, HIDDEN), "weight": x(WIDTH, HIDDEN), "bias": x(WIDTH)},
        "swiglu": {"x": x(TOKENS, 2 * WIDTH)},
        "linear_swiglu": {"x": x(TOKENS, HIDDEN), "weight": x(2 * WIDTH, HIDDEN)},
        "silu_mul": {"gate": x(TOKENS, WIDTH), "up": x(TOKENS, WIDTH)},
        "select_rows": {"x": x(TOKENS, HIDDEN), "rows": torch.tensor([2, 0])},
        "join_qkv": {
            "q": by_head,
            "k": x(TOKENS, KV_HEADS, HEAD_DIM),
            "v": x(TOKENS, KV_HEADS, HEAD_DIM),
        },
        "rope": {"x": by_head, "scaling": 1.0, **rope},
        "norm_rope": {
            "x": by_head,
            "weight": x(HEAD_DIM),
            "eps": 1e-5,
            "scaling": 1.0,
            **rope,
        },
        "moe_gate": {
            "x": x(TOKENS, HIDDEN),
            "weight": x(EXPERTS, HIDDEN),
            "bias": normal(EXPERTS),
            "top_k": TOP_K,
            "groups": 2,
            "top_groups": 1,
            "group_fill": 0.0,
            "normalize": True,
            "normalize_eps": 1e-20,
            "scale": 2.5,
        },
        "moe_ffn": routed,
        "local_moe_ffn": routed | {"first": torch.tensor([0])},
        "local_embedding": {
            "token_ids": torch.tensor([5, 0, 3, 2]),
            "weight": x(8, HIDDEN),
            "first": torch.tensor([0]),
        },
        "marked_experts": routed,
        "shared_expert": {"x": x(TOKENS, HIDDEN), "routed": x(TOKENS, HIDDEN), **shared},
        "moe_ffn_shared": routed | {f"shared_{key}": value for key, value in shared.items()},
        "attention": {
            "q": x(1, TOKENS, HEADS, HEAD_DIM),
            "k": x(1, TOKENS, KV_HEADS, HEAD_DIM),
            "v": x(1, TOKENS, KV_HEADS, HEAD_DIM),
            "scale": 0.4,
        },
        "marked_attention": {
            "q": x(1, HEADS, TOKENS, HEAD_DIM),
            "k": x(1, KV_HEADS, TOKENS, HEAD_DIM),
            "v": x(1, KV_HEADS, TOKENS, HEAD_DIM),
            "scale": 0.4,
        },
        "masked_attention": {
            "q": x(2, TOKENS, HEADS, HEAD_DIM),
            "k": x(2, KV_HEADS, 5, HEAD_DIM),
            "v": x(2, KV_HEADS, 5, HEAD_DIM),
            "mask": x(2, 1, TOKENS, 5),
            "scale": 0.4,
            "causal": False,
            "safe_softmax": True,
        },
        "qkv_rope_cache": qkv,
        "prefill_attention": {
            "q": by_head,
            **cache,
            "block_tables": tables,
            "cu_seqlens_q": bounds,
            "cu_seqlens_k": bounds * 2 * BLOCK_SIZE,
            "scale": 0.4,
        },
        "decode_attention": {
            "q": by_head,
            **cache,
            "block_tables": tables,
            "context_lengths": lengths,
            "scale": 0.4,
        },
        "rope_decode_attention": {
            **qkv,
            "block_tables": tables,
            "context_lengths": lengths,
            "scale": 0.4,
        },
    }
    return {key: known[name][key] for key in OPS[name].argument_names}


def results(op: SemanticOp, named: dict[str, Any]) -> tuple[Tensor, ...]:
    """What the op's reference gives, always as a tuple."""
    out = op.reference(*(named[key] for key in op.argument_names))
    return out if isinstance(out, tuple) else (out,)


_RANDOM = torch.Generator()
