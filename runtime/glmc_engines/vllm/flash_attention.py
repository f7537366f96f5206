"""FlashAttention 3, which vLLM brings for Hopper and which reads a paged cache in place."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import torch

from glmc_engines.surface.uses import Use
from glmc_engines.vllm import compat

if TYPE_CHECKING:  # it is in a package that imports Triton
    from glmc_runtime.kernels.cuda.attention.paged_library import PagedAttention

_LIBRARY = "glmc_runtime.kernels.cuda.attention.paged_library"  # its package imports Triton

SURFACE: tuple[Use, ...] = (
    Use(
        "vllm.envs.VLLM_FLASH_ATTN_VERSION",
        "attribute",
        why="the version of FlashAttention that is asked for",
        optional=True,
    ),
    Use(
        "vllm.config.VllmConfig.attention_config",
        "attribute",
        why="the version of FlashAttention that is asked for",
        optional=True,
    ),
    Use(
        "vllm.vllm_flash_attn.is_fa_version_supported",
        "function",
        ("fa_version",),
        "whether the device has it",
        optional=True,
    ),
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


def offer_flash_attention(config: Any) -> str:
    """Have plans that are bound from now on attend by FlashAttention 3, where vLLM has it and no
    other version was asked for; what prefill and mixed steps attend by, for the log."""
    wanted = getattr(getattr(config, "attention_config", None), "flash_attn_version", None)
    wanted = wanted or compat.flash_attention_version() or 3
    attention = paged_attention() if wanted == 3 else None
    if attention is not None or _LIBRARY in sys.modules:
        importlib.import_module(_LIBRARY).offer_paged_attention(attention)
    return "torch" if attention is None else "the FlashAttention 3 of vLLM"


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
