"""Kernels of an NVIDIA GPU, in Triton; products with many rows go to cuBLAS through torch.

A module each for what a plan calls. Steps allocate nothing and read nothing on the host, but for
``prefill_attention``, so a decode step is one device graph. Sums that are split over programs are
put together in a fixed order: the same inputs give the same bits.
"""

from glmc_runtime.kernels.cuda import activation, embedding, greedy, norms, qkv_rope_cache, rope
from glmc_runtime.kernels.cuda.attention import decode as decode_attention
from glmc_runtime.kernels.cuda.attention import masked as masked_attention
from glmc_runtime.kernels.cuda.attention import prefill as prefill_attention
from glmc_runtime.kernels.cuda.attention import rope_decode as rope_decode_attention
from glmc_runtime.kernels.cuda.linear import linear
from glmc_runtime.kernels.cuda.moe import router as moe_gate
from glmc_runtime.kernels.cuda.moe import select as moe_ffn

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
