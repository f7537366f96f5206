"""Kernels of the CPU target: ATen and oneDNN calls over preallocated tensors.

All tensors but caches are contiguous. A decode step allocates no tensor storage: every call has an
``out``, scratch comes from the plan, and views are made when a call is bound. Only attention, whose
lengths change from step to step, makes views (no storage) while it runs.
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
