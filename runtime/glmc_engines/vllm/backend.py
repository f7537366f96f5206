"""The attention backend that vLLM sees in the place of a plan's attention.

It says how large the KV cache is and keeps what a step's metadata has; nothing of it computes, as
attention is in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from glmc_engines.core.errors import EngineVersionError
from glmc_engines.vllm import compat
from glmc_runtime import KVTensors, OuterStep
from glmc_runtime.format.cache import CacheSpec

_LAYOUTS = compat.cache_layouts()
_Backend, _Impl, _Builder = compat.backend_classes()


@dataclass(frozen=True)
class StepMetadata:
    """What vLLM says of a step, beside its tokens and positions."""

    tokens: int
    sequences: int
    longest_query: int
    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    context_lengths: torch.Tensor
    cu_seqlens_q: torch.Tensor
    context_lengths_host: torch.Tensor | None
    cu_seqlens_q_host: torch.Tensor

    def step(self, token_ids: torch.Tensor, positions: torch.Tensor) -> OuterStep:
        """The step for these tokens, which may be padded."""
        return OuterStep(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=self.slot_mapping,
            block_tables=self.block_tables,
            context_lengths=self.context_lengths,
            cu_seqlens_q=self.cu_seqlens_q,
            tokens=self.tokens,
            sequences=self.sequences,
            longest_query=self.longest_query,
            context_lengths_host=self.context_lengths_host,
            cu_seqlens_q_host=self.cu_seqlens_q_host,
        )


class MetadataBuilder(_Builder):  # type: ignore[misc, valid-type]
    """Keeps what vLLM makes a builder with."""

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ) -> None:
        self.kv_cache_spec = kv_cache_spec
        self.layer_names = layer_names
        self.vllm_config = vllm_config
        self.device = device


class PlanMetadataBuilder(MetadataBuilder):
    """Makes :class:`StepMetadata`; its base says that no CUDA graph of vLLM's can hold it."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> StepMetadata:
        common = common_attn_metadata
        sequences = common.num_reqs
        lengths = compat.host_lengths(common)
        return StepMetadata(
            tokens=common.num_actual_tokens,
            sequences=sequences,
            longest_query=common.max_query_len,
            slot_mapping=common.slot_mapping,
            block_tables=common.block_table_tensor,
            context_lengths=common.seq_lens,
            cu_seqlens_q=common.query_start_loc,
            context_lengths_host=lengths,
            cu_seqlens_q_host=common.query_start_loc_cpu,
        )


class PlanAttention(_Impl):  # type: ignore[misc, valid-type]
    """Stands where vLLM wants an implementation."""

    def __init__(self, *arguments: object, **options: object) -> None:
        return

    def forward(self, *arguments: object, **options: object) -> torch.Tensor:
        raise EngineVersionError(
            "vLLM called an attention layer whose attention is in a compiled plan"
        )


class CustomBackend(_Backend):  # type: ignore[misc, valid-type]
    """What vLLM asks of any backend that is none of its own."""

    supported_dtypes = (torch.float32, torch.bfloat16, torch.float16)

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"  # of vLLM's list of backends

    @classmethod
    def supported_kv_cache_layouts(cls) -> Any:
        """Of newer releases, which lay out ``[blocks, heads, tokens, key and value]``."""
        return (_LAYOUTS.LBHNC,)

    @staticmethod
    def use_cascade_attention(*_: Any, **__: Any) -> bool:
        return False


class PlanBackend(CustomBackend):
    """The backend of the layers of our models; the base of one for each layout of KV caches.

    ``block_size`` is that of the artifact, which its kernels were tuned for; vLLM takes it unless
    an option names another.
    """

    layout = "kv blocks tokens heads dim"
    block_size: int | None = None

    @classmethod
    def get_preferred_block_size(cls, default_block_size: int) -> int:
        return cls.block_size or default_block_size

    @staticmethod
    def get_impl_cls() -> type[PlanAttention]:
        return PlanAttention

    @staticmethod
    def get_builder_cls() -> type[PlanMetadataBuilder]:
        return PlanMetadataBuilder

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, *_: Any, **__: Any
    ) -> tuple[int, ...]:
        """Of older releases, which lay out any shape."""
        return (2, num_blocks, block_size, num_kv_heads, head_size)


class HeadsFirstBackend(PlanBackend):
    """The same for plans whose kernels have the heads of a block before its tokens."""

    layout = "kv blocks heads tokens dim"

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, *_: Any, **__: Any
    ) -> tuple[int, ...]:
        return (2, num_blocks, num_kv_heads, block_size, head_size)


def backend_for(cache: CacheSpec) -> type[PlanBackend]:
    """The backend whose KV cache is as an artifact's own is."""
    base = HeadsFirstBackend if cache.layout == "blocks_heads_tokens" else PlanBackend
    return type(base.__name__, (base,), {"block_size": cache.block_size, "__module__": __name__})


def kv_tensors(caches: list[torch.Tensor], backend: type[PlanBackend]) -> KVTensors:
    """The KV cache of all layers; block 0 is vLLM's null block, which no sequence owns."""
    layout = backend.layout if caches[0].dim() == 5 else "blocks heads tokens kv*dim"
    return KVTensors(caches, layout, scratch_block=0)
