"""Attention of a decode step of GLM-4-9B and GLM-4.5-Air, to be tuned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from glmc.ir.ops.attention import gather_cache
from glmc.ir.ops.rotary import apply_rope
from glmc_runtime.kernels.cuda.attention import rope_decode as rope_decode_attention
from glmc_runtime.kernels.cuda.attention import splits as decode_splits
from glmc_runtime.kernels.cuda.attention.splits import REACHES, Shape
from tuning.shares import kv_heads_of_rank, share
from tuning.tunable import Arguments, Tunable

SEQUENCES = (1, 16, 64, 128, 256)
CONTEXTS = (1024, *REACHES[1:])  # the first in tables for REACHES[0] tokens
HEAD_DIM, ROTARY, BLOCK_SIZE = 128, 64, 16
SCALE = HEAD_DIM**-0.5
LARGEST = 9e9  # bytes of keys and values


class Model(NamedTuple):
    q_heads: int
    kv_heads: int
    interleaved: bool

    def of_rank(self, ranks: int) -> Model:
        """A kv head that several ranks need, each of them has."""
        kv_heads = kv_heads_of_rank(self.kv_heads, ranks)
        return self._replace(q_heads=share(self.q_heads, ranks), kv_heads=kv_heads)


GLM_9B, AIR = Model(32, 2, True), Model(96, 8, False)


def _make(
    model: Model,
    sequences: int,
    context: int,
    reach: int,
    is_fused: bool,
    device: torch.device,
    generator: torch.Generator,
) -> Arguments:
    """Blocks in random order; ``is_fused``: the last token of each context comes from qkv."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device=device, generator=generator)

    used = -(-context // BLOCK_SIZE)
    blocks = 1 + sequences * used
    order = torch.randperm(blocks - 1, device=device, generator=generator).int() + 1
    tables = torch.zeros(sequences, reach // BLOCK_SIZE, dtype=torch.int32, device=device)
    tables[:, :used] = order.view(sequences, used)
    last = torch.full((sequences,), context - 1, dtype=torch.int64, device=device)
    shape = (blocks, model.kv_heads, BLOCK_SIZE, HEAD_DIM)
    out = torch.full((sequences, model.q_heads, HEAD_DIM), torch.nan, dtype=torch.bfloat16)
    arguments: Arguments = {
        "key_cache": draw(*shape),
        "value_cache": draw(*shape),
        "block_tables": tables,
        "context_lengths": (last + 1).int(),
        "scale": SCALE,
        "out": out.to(device),
    }
    if not is_fused:
        return {**arguments, "query": draw(sequences, model.q_heads, HEAD_DIM)}
    angles = torch.rand(context, ROTARY // 2, device=device, generator=generator) * 6
    return {
        **arguments,
        "qkv": draw(sequences, (model.q_heads + 2 * model.kv_heads) * HEAD_DIM),
        "q_norm": None,
        "k_norm": None,
        "norm_eps": 1e-5,
        "cos_sin": torch.cat((angles.cos(), angles.sin()), -1).to(torch.bfloat16),
        "positions": last,
        "slot_mapping": tables[:, used - 1].long() * BLOCK_SIZE + last % BLOCK_SIZE,
        "interleaved": model.interleaved,
    }


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """query [q_heads, head_dim], keys and values [tokens, kv_heads, head_dim], in float32."""
    grouped = query.float().view(keys.shape[1], -1, HEAD_DIM)
    scores = torch.einsum("kgd,tkd->kgt", grouped, keys.float()) * SCALE
    return torch.einsum("kgt,tkd->kgd", scores.softmax(-1), values.float()).reshape(query.shape)


def _reference(arguments: Arguments) -> dict[str, torch.Tensor]:
    out = torch.empty_like(arguments["out"], dtype=torch.float32)
    caches = arguments["key_cache"], arguments["value_cache"]
    query, new = arguments.get("query"), None
    if query is None:
        query, *new = _rotated(arguments)
    for index, length in enumerate(arguments["context_lengths"].tolist()):
        table = arguments["block_tables"][index]
        context = [gather_cache(cache, table, length) for cache in caches]
        if new is not None:
            context = [
                torch.cat((part[:-1], row[index : index + 1]))
                for part, row in zip(context, new, strict=True)
            ]
        out[index] = _attend(query[index], *context)
    return {"out": out}


def _rotated(arguments: Arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sequences, q_heads, _ = arguments["out"].shape
    kv_heads = arguments["key_cache"].shape[1]
    heads = arguments["qkv"].view(sequences, -1, HEAD_DIM)
    query, key, value = heads.split((q_heads, kv_heads, kv_heads), 1)
    cos, sin = arguments["cos_sin"][arguments["positions"]].chunk(2, -1)
    query, key = (apply_rope(part, cos, sin, arguments["interleaved"]) for part in (query, key))
    return query, key, value


def _tunable(model: Model, sequences: int, context: int, reach: int, is_fused: bool) -> Tunable:
    shape = Shape(sequences, model.q_heads, model.kv_heads, HEAD_DIM, reach, torch.bfloat16)
    candidates = rope_decode_attention.candidates if is_fused else decode_splits.candidates
    rows = 2 * sequences * context * model.kv_heads + 2 * sequences * model.q_heads
    return Tunable(
        kernel="rope_decode_attention" if is_fused else "decode_attention",
        key=shape.key,
        rows=sequences,
        dtype=torch.bfloat16,
        bytes=rows * HEAD_DIM * 2,
        make=partial(_make, model, sequences, context, reach, is_fused),
        reference=_reference,
        candidates=partial(candidates, shape),
    )


def tunables(ranks: Sequence[int] = (1,)) -> list[Tunable]:
    """The fused kernel first, short contexts first: time may run out."""
    models = dict.fromkeys(model.of_rank(count) for count in ranks for model in (GLM_9B, AIR))
    every = [
        _tunable(model, sequences, context, reach, is_fused)
        for is_fused in (True, False)
        for sequences in SEQUENCES
        for context, reach in zip(CONTEXTS, REACHES, strict=True)
        for model in models
    ]
    return [each for each in every if each.bytes <= LARGEST]
