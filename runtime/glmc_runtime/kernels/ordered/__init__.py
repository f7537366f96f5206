"""Kernels whose sums have an order that follows from their length alone: ``--deterministic``."""

from glmc_runtime.kernels.ordered import (
    activation,
    attention,
    linear,
    local_moe_ffn,
    moe_ffn,
    moe_gate,
    norms,
    qkv_rope_cache,
)

__all__ = [
    "activation",
    "attention",
    "linear",
    "local_moe_ffn",
    "moe_ffn",
    "moe_gate",
    "norms",
    "qkv_rope_cache",
]
