"""Expected results of the attention calls, one query token at a time."""

from __future__ import annotations

import math

import torch

from glmc_runtime.doctor.bench import Bench
from glmc_runtime.doctor.hostile import fill_kind
from glmc_runtime.doctor.references import Arguments, Expected, Probe

# Slots that no sequence owns hold this; a kernel that reads them can't hide it.
STALE = 500.0


class _Attention(Probe):
    """Fills queries and the caches; slots after the end of each context hold a large number."""

    def fill(self, bench: Bench, arguments: Arguments, kind: str) -> None:
        fill_kind(arguments["q" if "q" in arguments else "x"], kind, bench.generator, low=-4.0)
        size = bench.cache.spec.block_size
        for cache in _caches(arguments):
            fill_kind(cache, kind, bench.generator, low=-4.0)
            keep = torch.zeros(cache.shape[0], size, dtype=torch.bool)
            for chunk in bench.step.chunks:
                for position in range(chunk.start + len(chunk.tokens)):
                    keep[chunk.blocks[position // size], position % size] = True
            stale = (~keep).view(len(keep), 1, size, 1).to(cache.device)
            cache.masked_fill_(stale, STALE)


def _caches(arguments: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """[blocks, kv_heads, block_size, head_dim] each."""
    if "k_cache" in arguments:
        return arguments["k_cache"], arguments["v_cache"]
    return arguments["k"], arguments["v"]


def _attend(bench: Bench, arguments: Arguments, query: torch.Tensor, scale: float) -> torch.Tensor:
    """query [tokens, heads, head_dim]; each token sees its sequence up to its own position."""
    keys, values = (cache.double().transpose(1, 2).flatten(0, 1) for cache in _caches(arguments))
    size = bench.cache.spec.block_size
    rows: list[torch.Tensor] = []
    for chunk in bench.step.chunks:
        for position in range(chunk.start, chunk.start + len(chunk.tokens)):
            slots = [chunk.blocks[p // size] * size + p % size for p in range(position + 1)]
            heads = query[len(rows)].double()
            group = heads.shape[0] // keys.shape[1]
            key = keys[slots].repeat_interleave(group, dim=1)
            value = values[slots].repeat_interleave(group, dim=1)
            weights = torch.softmax(torch.einsum("hd,thd->ht", heads, key) * scale, -1)
            rows.append(torch.einsum("ht,thd->hd", weights, value))
    return torch.stack(rows)


def _prefill(bench: Bench, arguments: Arguments) -> Expected:
    """The kernel divides by sqrt(head_dim) itself and then multiplies by ``alpha``."""
    query = arguments["q"]
    scale = arguments.get("alpha", 1.0) / math.sqrt(query.shape[-1])
    return {"out": _attend(bench, arguments, query, scale)}


def _speculative(bench: Bench, arguments: Arguments) -> Expected:
    """``scale`` 0 means 1/sqrt(head_dim)."""
    query = arguments["q"].reshape(-1, arguments["head_num"], arguments["head_dim"])
    scale = arguments["scale"] or 1.0 / math.sqrt(arguments["head_dim"])
    return {"out": _attend(bench, arguments, query, scale)}


def _paged(bench: Bench, arguments: Arguments) -> Expected:
    head_dim = arguments["k_cache"].shape[-1]
    query = arguments["x"].reshape(bench.step.sequences, -1, head_dim)
    return {"out": _attend(bench, arguments, query, 1.0 / math.sqrt(head_dim))}


ATTENTION_PROBES: dict[str, Probe] = {
    "prefill_attention": _Attention((), _prefill),
    "speculative_attention": _Attention((), _speculative),
    "paged_attention": _Attention((), _paged),
}
