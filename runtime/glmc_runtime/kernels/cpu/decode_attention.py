"""Attention of one new token per sequence over the paged cache.

The query heads of one kv head are the columns of one product, so keys and values are read once
and never repeated. Scores are ``keys @ queries``, that way round, because oneDNN streams its left
operand as it lies and would repack the right one (bfloat16, 2048 tokens: 93 us against 356 us).
The softmax is in float32. Nothing is gathered: each run of slots is read in place.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.cpu.common import require_dtype, require_shape
from glmc_runtime.kernels.cpu.runs import Run, shared_runs

_MAXIMUM_VIEWS = 512


class _Scratch:
    """Views of the scratch by context length, kept for the sequences and steps that share one."""

    def __init__(self, scores: torch.Tensor, floats: torch.Tensor, kv_heads: int, group: int):
        self.scores, self.floats = scores, floats
        self.kv_heads, self.group = kv_heads, group
        self._views: dict[int, tuple[torch.Tensor, ...]] = {}

    def views(self, length: int) -> tuple[torch.Tensor, ...]:
        """scores [kv_heads, length, group], the same transposed, float32 weights and their copy in
        the dtype of the cache [kv_heads, group, length]; the copy takes the place of the scores."""
        found = self._views.get(length)
        if found is None:
            if len(self._views) >= _MAXIMUM_VIEWS:
                self._views.clear()
            size = self.kv_heads * self.group * length
            scores = self.scores[:size].view(self.kv_heads, length, self.group)
            floats = self.floats[:size].view(self.kv_heads, self.group, length)
            copy = floats
            if self.scores.dtype != torch.float32:
                copy = self.scores[:size].view(self.kv_heads, self.group, length)
            found = self._views[length] = (scores, scores.transpose(1, 2), floats, copy)
        return found


@register("cpu.decode_attention")
def decode_attention(arguments: dict[str, Any]) -> Thunk:
    """query and out [sequences, q_heads, head_dim]; key_cache and value_cache [blocks, block_size,
    kv_heads, head_dim]; block_tables int32 [sequences, blocks_per_sequence]; context_lengths int32
    [sequences] in host memory, the new token counted.

    Scratch: scores [q_heads * longest] in the dtype of the cache and floats of that size in
    float32, longest = blocks_per_sequence * block_size; total float32 [q_heads, head_dim].
    """
    query, out, scale = arguments["query"], arguments["out"], float(arguments["scale"])
    key_cache, value_cache = arguments["key_cache"], arguments["value_cache"]
    tables, lengths = arguments["block_tables"], arguments["context_lengths"]
    sequences, q_heads, head_dim = query.shape
    block_size, kv_heads = key_cache.shape[1:3]
    if q_heads % kv_heads:
        raise PlanError(
            "query heads must be a multiple of kv heads", found=f"{q_heads}, {kv_heads}"
        )
    require_dtype("query", query)
    require_dtype("key_cache", key_cache, query.dtype)
    require_shape("out", out, tuple(query.shape))
    require_shape("value_cache", value_cache, tuple(key_cache.shape))
    require_shape("context_lengths", lengths, (sequences,))
    require_shape("block_tables", tables, (sequences, tables.shape[1]))
    for name, dtype in (("scores", query.dtype), ("floats", torch.float32)):
        require_dtype(name, arguments[name], dtype)
        require_shape(name, arguments[name], (q_heads * tables.shape[1] * block_size,))

    group = q_heads // kv_heads
    queries = query.view(sequences, kv_heads, group, head_dim).transpose(2, 3).unbind(0)
    results = out.view(sequences, kv_heads, group, head_dim).unbind(0)
    total = arguments["total"].view(kv_heads, group, head_dim)
    keys, values = (
        cache.view(-1, kv_heads, head_dim).transpose(0, 1) for cache in (key_cache, value_cache)
    )
    scratch = _Scratch(arguments["scores"], arguments["floats"], kv_heads, group)
    contexts = shared_runs(tables, lengths, block_size)
    softmax = torch.ops.aten._softmax.out

    def score(runs: tuple[Run, ...], transposed: torch.Tensor, scores: torch.Tensor) -> None:
        if len(runs) == 1:
            start, count = runs[0]
            run = keys.narrow(1, start, count)
            torch.baddbmm(scores, run, transposed, beta=0, alpha=scale, out=scores)
            return
        position = 0
        for start, count in runs:
            part = scores.narrow(1, position, count)
            run = keys.narrow(1, start, count)
            torch.baddbmm(part, run, transposed, beta=0, alpha=scale, out=part)
            position += count

    def weigh(runs: tuple[Run, ...], weights: torch.Tensor, result: torch.Tensor) -> None:
        start, count = runs[0]
        if len(runs) == 1:
            torch.bmm(weights, values.narrow(1, start, count), out=result)
            return
        total.zero_()
        position = 0
        for start, count in runs:
            part = weights.narrow(2, position, count)
            torch.bmm(part, values.narrow(1, start, count), out=result)
            total.add_(result)
            position += count
        result.copy_(total)

    def run() -> None:
        for runs, transposed, result in zip(contexts.current(), queries, results, strict=True):
            length = sum(count for _, count in runs)
            scores, by_query, floats, weights = scratch.views(length)
            score(runs, transposed, scores)
            floats.copy_(by_query)
            softmax(floats, -1, False, out=floats)
            if weights is not floats:
                weights.copy_(floats)
            weigh(runs, weights, result)

    return run
