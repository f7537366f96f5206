"""Attention of one new token per sequence over the paged cache: ours in C, or ATen's products.

By ATen the query heads of one kv head are the columns of one product, so keys and values are read
once and never repeated. Scores are ``keys @ queries``, that way round, because oneDNN streams its
left operand as it is stored and would repack the right one. One product per kv head, not one
batched product: ATen clones batched bfloat16 operands whose heads interleave, which would copy the
context. The softmax is in float32. Nothing is gathered: each run of slots is read in place, however
long the context. Contexts that fit into the scratch of ``gathered.py`` go there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import optional, require_caches, require_dtype, require_shape
from glmc_runtime.kernels.cpu.cache_memory import blocks_follow, rows_of, slots_by_head
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.gathered import gathered_attention, shared_index
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.cpu.runs import Run, shared_runs
from glmc_runtime.kernels.schema import schema, scratch, written
from glmc_runtime.kernels.shared_schemas import DECODE

_MAXIMUM_VIEWS = 512


class _View(NamedTuple):
    """Views of the scratch for one context length. ``copy`` (None in float32) has the weights in
    the dtype of the cache, in the place of the scores, which are used up by then."""

    scores: tuple[torch.Tensor, ...]  # per kv head [length, group]
    by_query: torch.Tensor  # the same as [kv_heads, group, length]
    floats: torch.Tensor  # float32 [kv_heads, group, length]
    copy: torch.Tensor | None
    weights: tuple[torch.Tensor, ...]  # per kv head [group, length]


class _Scratch:
    """Views by context length, kept for the sequences and steps that share one."""

    def __init__(
        self, scores: torch.Tensor, floats: torch.Tensor, kv_heads: int, group: int
    ) -> None:
        self.scores, self.floats = scores, floats
        self.kv_heads, self.group = kv_heads, group
        self._views: dict[int, _View] = {}

    def view(self, length: int) -> _View:
        cached = self._views.get(length)
        if cached is None:
            if len(self._views) >= _MAXIMUM_VIEWS:
                self._views.clear()
            size = self.kv_heads * self.group * length
            scores = self.scores[:size].view(self.kv_heads, length, self.group)
            floats = self.floats[:size].view(self.kv_heads, self.group, length)
            copy = None
            if self.scores.dtype != torch.float32:
                copy = self.scores[:size].view(self.kv_heads, self.group, length)
            weights = (floats if copy is None else copy).unbind(0)
            cached = _View(scores.unbind(0), scores.transpose(1, 2), floats, copy, weights)
            self._views[length] = cached
        return cached


def _batch_tokens(arguments: dict[str, Any]) -> int | None:
    """How many tokens of every sequence the scratch of a batch holds; None without scratch. Raises
    PlanError for scratch that does not fit."""
    context, query = optional(arguments, "batch_context"), arguments["query"]
    if context is None:
        return None
    sequences, q_heads, head_dim = query.shape
    of_token: int = sequences * arguments["key_cache"].shape[2] * head_dim
    most, rest = divmod(context.numel(), of_token)
    if rest:
        raise PlanError(
            "batch_context must hold as many tokens of every sequence",
            expected=f"a multiple of {of_token} elements",
            found=str(context.numel()),
        )
    require_dtype("batch_context", context, query.dtype)
    for name, dtype in (("batch_scores", query.dtype), ("batch_floats", torch.float32)):
        require_dtype(name, arguments[name], dtype)
        require_shape(name, arguments[name], (sequences * q_heads * most,))
    return int(most)


def _compiled(arguments: dict[str, Any], scale: float) -> Thunk | None:
    """The whole call by ours in C, or None where torch's kernels serve; operands were checked."""
    query, out = arguments["query"], arguments["out"]
    keys, values = arguments["key_cache"], arguments["value_cache"]
    tables, lengths = arguments["block_tables"], arguments["context_lengths"]
    if not serves(query, keys, values, out):
        return None
    (sequences, q_heads, head_dim), (blocks, block_size, kv_heads) = query.shape, keys.shape[:3]
    sizes = (sequences, tables.shape[1], blocks, q_heads, kv_heads, head_dim, block_size)
    return NativeCall(
        "decode_attention",
        (query, keys, values, out, tables, lengths),
        (*sizes, *keys.stride()[:3]),
        (scale,),
    )


@register(
    "cpu.decode_attention",
    schema(
        *DECODE,
        written("scores", "q_heads*table*block_size", like="query"),
        written("floats", "q_heads*table*block_size", "float32"),
        written("total", "q_heads head_dim", "float32"),
        scratch("batch_context", "_", like="query"),
        scratch("batch_scores", "_", like="query"),
        scratch("batch_floats", "_", "float32"),
        relations=(
            "q_heads % kv_heads == 0",
            "not batch_context.given or batch_context.size*q_heads"
            " == batch_scores.size*kv_heads*head_dim",
            "not batch_context.given or batch_scores.size == batch_floats.size",
            "not batch_context.given or batch_context.size % (sequences*kv_heads*head_dim) == 0",
        ),
        together=(("batch_context", "batch_scores", "batch_floats"),),
        host=True,
    ),
)
def decode_attention(arguments: dict[str, Any]) -> Thunk:
    """query and out [sequences, q_heads, head_dim]; key_cache and value_cache [blocks, block_size,
    kv_heads, head_dim]; block_tables int32 [sequences, blocks_per_sequence]; context_lengths int32
    [sequences] in host memory, the new token counted.

    Scratch: scores [q_heads * longest] in the dtype of the cache and floats of that size in
    float32, longest = blocks_per_sequence * block_size; total float32 [q_heads, head_dim].
    Optionally batch_context, batch_scores and batch_floats as in ``gathered_attention``: several
    sequences of at most that many tokens are then one batch.
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
    require_shape("query", query, tuple(query.shape))
    for name, index in (("block_tables", tables), ("context_lengths", lengths)):
        require_dtype(name, index, torch.int32)
    require_dtype("key_cache", key_cache, query.dtype)
    require_caches(arguments)
    require_shape("out", out, tuple(query.shape))
    require_shape("context_lengths", lengths, (sequences,))
    require_shape("block_tables", tables, (sequences, tables.shape[1]))
    for name, dtype in (("scores", query.dtype), ("floats", torch.float32)):
        require_dtype(name, arguments[name], dtype)
        require_shape(name, arguments[name], (q_heads * tables.shape[1] * block_size,))

    most = _batch_tokens(arguments)
    compiled = _compiled(arguments, scale)
    if compiled is not None:
        return compiled
    group = q_heads // kv_heads
    by_head = (sequences, kv_heads, group, head_dim)
    queries = [heads.unbind(0) for heads in query.view(by_head).transpose(2, 3).unbind(0)]
    results = [heads.unbind(0) for heads in out.view(by_head).unbind(0)]
    total = arguments["total"].view(kv_heads, group, head_dim)[0]
    keys, values = slots_by_head(key_cache), slots_by_head(value_cache)
    scratch = _Scratch(arguments["scores"], arguments["floats"], kv_heads, group)
    contexts = shared_runs(tables, lengths, block_size, blocks_follow(key_cache))
    softmax = torch.ops.aten._softmax.out

    def score(head: int, runs: tuple[Run, ...], queries: torch.Tensor, out: torch.Tensor) -> None:
        position = 0
        for start, count in runs:
            part = out if count == out.shape[0] else out.narrow(0, position, count)
            run = keys[head].narrow(0, start, count)
            torch.addmm(part, run, queries, beta=0, alpha=scale, out=part)
            position += count

    def weigh(head: int, runs: tuple[Run, ...], weights: torch.Tensor, out: torch.Tensor) -> None:
        start, count = runs[0]
        if len(runs) == 1:
            torch.mm(weights, values[head].narrow(0, start, count), out=out)
            return
        total.zero_()
        position = 0
        for start, count in runs:
            part = weights.narrow(1, position, count)
            torch.mm(part, values[head].narrow(0, start, count), out=out)
            total.add_(out)
            position += count
        out.copy_(total)

    def loop() -> None:
        for runs, transposed, result in zip(contexts.current(), queries, results, strict=True):
            length = sum(count for _, count in runs)
            view = scratch.view(length)
            for head, (queries_of, scores) in enumerate(zip(transposed, view.scores, strict=True)):
                score(head, runs, queries_of, scores)
            view.floats.copy_(view.by_query)
            softmax(view.floats, -1, False, out=view.floats)
            if view.copy is not None:
                view.copy.copy_(view.floats)
            for head, (weights, part) in enumerate(zip(view.weights, result, strict=True)):
                weigh(head, runs, weights, part)

    if most is None:
        return loop
    parts = tuple(arguments[name] for name in ("batch_context", "batch_scores", "batch_floats"))
    rows = rows_of(key_cache), rows_of(value_cache)
    index = shared_index(tables, lengths, key_cache.shape, rows[0][1:], most)
    batched = gathered_attention(index, query, rows, parts, scale, out)

    def run() -> None:
        if index.fits():
            batched()
        else:
            loop()

    return run
