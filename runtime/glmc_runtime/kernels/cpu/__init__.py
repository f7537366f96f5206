"""Kernels of the CPU target: functions of a C library for few tokens, ATen and oneDNN calls for
many and where no library can be built.

All tensors but caches are contiguous. A decode step allocates no tensor storage: every call has an
``out``, and scratch comes from the plan. Functions in C that need room for sums, of experts and of
attention, take it for the length of a call. Views are made when a call is bound, but for attention
by ATen, whose lengths change from step to step.
"""

from glmc_runtime.kernels.cpu import (
    activation,
    decode_attention,
    linear,
    local_moe_ffn,
    masked_attention,
    moe_ffn,
    moe_gate,
    norms,
    prefill_attention,
    qkv_rope_cache,
    rope,
    rows,
)

__all__ = [
    "activation",
    "decode_attention",
    "linear",
    "local_moe_ffn",
    "masked_attention",
    "moe_ffn",
    "moe_gate",
    "norms",
    "prefill_attention",
    "qkv_rope_cache",
    "rope",
    "rows",
]
