"""Paged attention in plain torch, for vLLM's own models on a host: what ours are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from glmc_engines.vllm import compat
from glmc_engines.vllm.backend import CustomBackend, MetadataBuilder

_, _Impl, _ = compat.backend_classes()


@dataclass(frozen=True)
class HostMetadata:
    """A step: where the tokens of each sequence are, and its blocks."""

    tokens: int
    starts: list[int]
    lengths: list[int]
    block_tables: torch.Tensor
    slots: torch.Tensor


class HostMetadataBuilder(MetadataBuilder):
    """Makes :class:`HostMetadata`."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> HostMetadata:
        common = common_attn_metadata
        sequences = common.num_reqs
        return HostMetadata(
            tokens=common.num_actual_tokens,
            starts=common.query_start_loc[: sequences + 1].tolist(),
            lengths=common.seq_lens[:sequences].tolist(),
            block_tables=common.block_table_tensor[:sequences],
            slots=common.slot_mapping,
        )


class HostAttention(_Impl):  # type: ignore[misc, valid-type]
    """Attention over the cache ``[blocks, heads, tokens, key and value]``."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        *_: Any,
        **__: Any,
    ) -> None:
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size, self.scale = head_size, scale
        self.kv_cache_dtype = "auto"

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: HostMetadata | None,
        output: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        if attn_metadata is None:
            return output.zero_()
        step, dim, size = attn_metadata, self.head_size, kv_cache.shape[2]
        slots = step.slots[: step.tokens]
        rows = torch.cat((key[: step.tokens], value[: step.tokens]), dim=-1)
        kv_cache[slots // size, :, slots % size] = rows
        for number, length in enumerate(step.lengths):
            start, end = step.starts[number], step.starts[number + 1]
            blocks = step.block_tables[number, : -(-length // size)].long()
            cached = kv_cache[blocks].transpose(0, 1).flatten(1, 2)[:, :length]
            keys, values = cached.split(dim, dim=-1)
            mask = torch.ones(end - start, length, dtype=torch.bool)
            attended = F.scaled_dot_product_attention(
                query[start:end].transpose(0, 1),
                keys,
                values,
                attn_mask=mask.tril(length - (end - start)),
                scale=self.scale,
                enable_gqa=self.num_heads != self.num_kv_heads,
            )
            output[start:end] = attended.transpose(0, 1)
        return output


class HostAttentionBackend(CustomBackend):
    """The backend of layers that name none."""

    accept_output_buffer = True

    @staticmethod
    def get_impl_cls() -> type[HostAttention]:
        return HostAttention

    @staticmethod
    def get_builder_cls() -> type[HostMetadataBuilder]:
        return HostMetadataBuilder

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, *_: Any, **__: Any
    ) -> tuple[int, ...]:
        return (num_blocks, num_kv_heads, block_size, 2 * head_size)
