"""FlashAttention 3, which vLLM brings for Hopper and which reads a paged cache in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glmc_engines.surface.uses import Use
from glmc_engines.vllm import compat

if TYPE_CHECKING:  # it is in a package that imports Triton
    from glmc_runtime.kernels.cuda.attention.paged_library import PagedAttention

SURFACE: tuple[Use, ...] = (
    Use(
        "vllm.vllm_flash_attn.flash_attn_varlen_func",
        "function",
        (
            "q",
            "k",
            "v",
            "max_seqlen_q",
            "cu_seqlens_q",
            "max_seqlen_k",
            "seqused_k",
            "softmax_scale",
            "causal",
            "block_table",
            "out",
            "fa_version",
        ),
        "attention of prefill and mixed steps on a GPU",
        optional=True,
    ),
)


def paged_attention() -> PagedAttention | None:
    """FlashAttention 3 as vLLM brings it, where the device and the release have it."""
    if compat.device_type() != "cuda":
        return None
    try:
        from vllm.vllm_flash_attn import flash_attn_varlen_func, is_fa_version_supported
    except ImportError:  # of a platform that is no NVIDIA GPU, or without that extension
        return None
    if not is_fa_version_supported(3):
        return None

    def attend(
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        out: torch.Tensor,
        *,
        cu_seqlens_q: torch.Tensor,
        lengths: torch.Tensor,
        block_tables: torch.Tensor,
        longest_query: int,
        longest_context: int,
        scale: float,
    ) -> None:
        flash_attn_varlen_func(
            q=query,
            k=key_cache,
            v=value_cache,
            out=out,
            cu_seqlens_q=cu_seqlens_q,
            max_seqlen_q=longest_query,
            seqused_k=lengths,
            max_seqlen_k=longest_context,
            softmax_scale=scale,
            causal=True,
            block_table=block_tables,
            fa_version=3,
        )

    return attend
