"""Kernels of an NVIDIA GPU, in Triton; products with many rows go to cuBLAS through torch.

A module each for what a plan calls. Steps allocate nothing and read nothing on the host, but for
``prefill_attention``, so a decode step is one device graph. Sums that are split over programs are
put together in a fixed order: the same inputs give the same bits.
"""

from glmc_runtime.kernels.cuda import (
    activation,
    decode_attention,
    embedding,
    greedy,
    linear,
    masked_attention,
    moe_ffn,
    moe_gate,
    norms,
    prefill_attention,
    qkv_rope_cache,
    rope,
    rope_decode_attention,
)

__all__ = [
    "activation",
    "decode_attention",
    "embedding",
    "greedy",
    "linear",
    "masked_attention",
    "moe_ffn",
    "moe_gate",
    "norms",
    "prefill_attention",
    "qkv_rope_cache",
    "rope",
    "rope_decode_attention",
]
