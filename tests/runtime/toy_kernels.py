"""Kernels of the toy model: a cache write and attention in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.schema import KernelSchema, integer, schema, tensor, written

HEADS, HEAD_DIM = 2, 8
BLOCK_SIZE, BLOCKS_PER_SEQUENCE = 4, 16
_CACHE = "blocks block_size heads head_dim"


def _attention(on_host: bool) -> KernelSchema:
    return schema(
        tensor("query", "tokens width"),
        written("out", "tokens width", like="query"),
        tensor("key_cache", _CACHE, like="query"),
        tensor("value_cache", _CACHE, like="query"),
        tensor("block_tables", "sequences table", "int32", holds="block_tables"),
        tensor("context_lengths", "sequences", "int32", holds="context_lengths", on_host=on_host),
        tensor("cu_seqlens_q", "sequences+1", "int32", holds="cu_seqlens_q", on_host=True),
        integer("sequences", equals="sequences"),
        relations=("heads*head_dim == width",),
        host=True,
    )


@register(
    "test.cache_write",
    schema(
        tensor("key", "tokens width"),
        tensor("value", "tokens width", like="key"),
        written("key_cache", _CACHE, like="key", reads=True),
        written("value_cache", _CACHE, like="key", reads=True),
        tensor("slots", "tokens", "int64", holds="slot_mapping"),
        relations=("heads*head_dim == width",),
    ),
)
def _cache_write(arguments: dict[str, Any]) -> Thunk:
    slots = arguments["slots"]
    width = HEADS * HEAD_DIM
    pairs = [
        (arguments[f"{part}_cache"].view(-1, width), arguments[part]) for part in ("key", "value")
    ]

    def thunk() -> None:
        for target, source in pairs:
            target.index_copy_(0, slots, source)

    return thunk


@register("test.prefill_attention", _attention(on_host=True))
def _prefill_attention(arguments: dict[str, Any]) -> Thunk:
    """Reads lengths on the host, as the vendor's kernel does."""

    def thunk() -> None:
        for row in range(arguments["sequences"]):
            first, end = arguments["cu_seqlens_q"][row : row + 2].tolist()
            length = int(arguments["context_lengths"][row])
            blocks = arguments["block_tables"][row].long()
            keys, values = (
                arguments[name][blocks].view(-1, HEADS, HEAD_DIM)[:length]
                for name in ("key_cache", "value_cache")
            )
            query = arguments["query"][first:end].view(-1, HEADS, HEAD_DIM)
            scores = torch.einsum("qhd,khd->hqk", query, keys) / math.sqrt(HEAD_DIM)
            positions = torch.arange(length - (end - first), length, device=keys.device)
            mask = torch.arange(length, device=keys.device)[None, :] > positions[:, None]
            weights = scores.masked_fill(mask, -math.inf).softmax(-1)
            mixed = torch.einsum("hqk,khd->qhd", weights, values)
            arguments["out"][first:end] = mixed.reshape(end - first, -1)

    return thunk


@register("test.decode_attention", _attention(on_host=False))
def _decode_attention(arguments: dict[str, Any]) -> Thunk:
    """One token per sequence over the whole table; every temporary is made when it is bound."""
    rows = arguments["sequences"]
    span = BLOCKS_PER_SEQUENCE * BLOCK_SIZE
    table = arguments["block_tables"].view(-1)
    caches = [arguments[name].flatten(1) for name in ("key_cache", "value_cache")]
    gathered = [cache.new_empty(table.numel(), cache.shape[1]) for cache in caches]
    keys, values = (part.view(rows, span, HEADS, HEAD_DIM).transpose(1, 2) for part in gathered)
    query = arguments["query"].view(rows, HEADS, 1, HEAD_DIM)
    out = arguments["out"].view(rows, HEADS, HEAD_DIM)
    lengths = arguments["context_lengths"].view(rows, 1, 1)
    places = torch.arange(span, device=table.device).view(1, 1, span)
    products = query.new_empty(rows, HEADS, span, HEAD_DIM)
    scores = query.new_empty(rows, HEADS, span)
    hidden = query.new_empty(rows, 1, span, dtype=torch.bool)
    largest, total = query.new_empty(rows, HEADS, 1), query.new_empty(rows, HEADS, 1)

    def thunk() -> None:
        for cache, part in zip(caches, gathered, strict=True):
            torch.index_select(cache, 0, table, out=part)
        torch.mul(query, keys, out=products)
        torch.sum(products, -1, out=scores)
        scores.div_(math.sqrt(HEAD_DIM))
        torch.ge(places, lengths, out=hidden)
        scores.masked_fill_(hidden, -math.inf)
        torch.amax(scores, -1, keepdim=True, out=largest)
        scores.sub_(largest).exp_()
        torch.sum(scores, -1, keepdim=True, out=total)
        scores.div_(total)
        torch.mul(scores.unsqueeze(-1), values, out=products)
        torch.sum(products, 2, out=out)

    return thunk
