"""A tiny artifact made by hand: embedding, one attention layer over the paged cache, a head.

Nothing of the compiler is used. ``reference_logits`` computes the same model in plain torch, on
whole sequences and without any cache.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glmc_runtime.format.cache import CacheSpec, CacheTensor
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import (
    FileEntry,
    Guards,
    Limits,
    Manifest,
    ModelFacts,
    PhaseEntry,
    Ranks,
    WeightEntry,
    manifest_to_json,
    phase_entry,
)
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import (
    Argument,
    Buffer,
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    Head,
    InputArgument,
    InputSpec,
    PhasePlan,
    Segment,
    ValueArgument,
    WeightArgument,
)
from glmc_runtime.format.plan_json import phase_to_json
from glmc_runtime.loading.loader import sha256_of
from tests.runtime.toy_kernels import BLOCK_SIZE, BLOCKS_PER_SEQUENCE, HEAD_DIM, HEADS

VOCABULARY, HIDDEN, MAX_CONTEXT = 64, 16, 60
EOS = (2, 52)
DECODE_BUCKETS, PREFILL_BUCKETS = (1, 2, 4), (4, 8, 16)
_TOKENS, _SEQUENCES = Extent.of(tokens=1), Extent.of(sequences=1)


def _columns(number: int) -> Extent:
    return Extent(constant=number)


def key_value_cache(
    layers: int,
    heads: int,
    head_dim: int,
    dtype: str,
    block_size: int,
    blocks_per_sequence: int,
    layout: str,
) -> CacheSpec:
    """Keys and values of alike layers."""
    rows = [
        CacheTensor(name, (heads, head_dim), dtype, tuple(range(layers)))
        for name in ("key", "value")
    ]
    return CacheSpec(tuple(rows), block_size, blocks_per_sequence, layout)


class PhaseBuilder:
    """Collects buffers and calls; every buffer gets an offset of its own."""

    def __init__(self, name: str, inputs: tuple[InputSpec, ...]) -> None:
        self.name, self.inputs = name, inputs
        self.buffers: list[Buffer] = []
        self.calls: list[Call] = []
        self.end = Extent()

    def buffer(self, name: str, rows: Extent, columns: int) -> BufferArgument:
        number = len(self.buffers)
        shape = (rows, _columns(columns))
        self.buffers.append(Buffer(number, name, "float32", shape, self.end, 0, 99))
        self.end += rows * (columns * 4)
        return BufferArgument(number)

    def tokens(self, name: str) -> BufferArgument:
        number = len(self.buffers)
        self.buffers.append(Buffer(number, name, "int64", (_SEQUENCES,), self.end, 0, 99))
        self.end += _SEQUENCES * 8
        return BufferArgument(number)

    def call(
        self, function: str, writes: tuple[str, ...], host: bool = False, **arguments: Argument
    ) -> None:
        node = f"{function.partition('.')[2]}_{len(self.calls)}"
        self.calls.append(Call(function, arguments, writes, host, node, node, 0, "model.layers.0"))

    def finish(
        self, output: BufferArgument, head: Head, greedy: BufferArgument | None = None
    ) -> PhasePlan:
        segments: list[Segment] = []
        for number, call in enumerate(self.calls):
            captured = not call.host
            if segments and captured and segments[-1].captured:
                segments[-1] = replace(segments[-1], last=number)
            else:
                segments.append(Segment(number, number, captured))
        return PhasePlan(
            self.name,
            self.inputs,
            tuple(self.buffers),
            tuple(self.calls),
            tuple(segments),
            output.buffer,
            self.end,
            None if greedy is None else greedy.buffer,
            head,
        )


def toy_plan(name: str, greedy: bool = False, ranks: int = 1) -> PhasePlan:
    """The plan of a phase; with ``greedy`` its last call chooses the tokens. Several ``ranks`` add
    their embeddings, of which rank 0 alone has one that is not zero."""
    decode = name == "decode"
    cu_seqlens = (Extent.of(sequences=1, constant=1),)
    inputs = [
        InputSpec("token_ids", "int64", (_TOKENS,)),
        InputSpec("positions", "int64", (_TOKENS,)),
        InputSpec("slot_mapping", "int64", (_TOKENS,)),
        InputSpec("block_tables", "int32", (_SEQUENCES, _columns(BLOCKS_PER_SEQUENCE))),
        InputSpec("context_lengths", "int32", (_SEQUENCES,)),
        InputSpec("context_lengths_host", "int32", (_SEQUENCES,)),
        InputSpec("cu_seqlens_q", "int32", cu_seqlens),
        InputSpec("cu_seqlens_q_host", "int32", cu_seqlens),
        InputSpec("cu_seqlens_k", "int32", cu_seqlens),
        InputSpec("last_rows", "int64", (_SEQUENCES,)),
    ]
    build = PhaseBuilder(name, tuple(inputs))
    width = HEADS * HEAD_DIM
    words = build.buffer("words", _TOKENS, HIDDEN)
    places = build.buffer("places", _TOKENS, HIDDEN)
    hidden = build.buffer("hidden", _TOKENS, HIDDEN)
    merged = build.buffer("merged", _TOKENS, 3 * width)
    query, key, value = (build.buffer(part, _TOKENS, width) for part in ("query", "key", "value"))
    mixed = build.buffer("mixed", _TOKENS, width)
    residual = build.buffer("residual", _TOKENS, HIDDEN)
    last = build.buffer("last", _SEQUENCES, HIDDEN)
    logits = build.buffer("logits", _SEQUENCES, VOCABULARY)

    build.call(
        "aten.embedding",
        ("out",),
        ids=InputArgument("token_ids"),
        weight=WeightArgument("words"),
        out=words,
    )
    if ranks > 1:
        build.call("collective.all_reduce", ("x",), x=words)
    build.call(
        "aten.embedding",
        ("out",),
        ids=InputArgument("positions"),
        weight=WeightArgument("places"),
        out=places,
    )
    build.call("aten.add", ("out",), x=words, y=places, out=hidden)
    build.call(
        "aten.linear",
        ("out",),
        x=hidden,
        weight=WeightArgument("qkv"),
        bias=WeightArgument("qkv_bias"),
        out=merged,
    )
    build.call(
        "aten.split_columns",
        ("out_0", "out_1", "out_2"),
        x=merged,
        sizes=ValueArgument([width] * 3),
        out_0=query,
        out_1=key,
        out_2=value,
    )
    build.call(
        "test.cache_write",
        ("key_cache", "value_cache"),
        key=key,
        value=value,
        key_cache=CacheArgument("key", 0),
        value_cache=CacheArgument("value", 0),
        slots=InputArgument("slot_mapping"),
    )
    real = (_TOKENS, _columns(width))
    build.call(
        "test.decode_attention" if decode else "test.prefill_attention",
        ("out",),
        host=True,
        query=BufferArgument(query.buffer, real, real=True),
        out=BufferArgument(mixed.buffer, real, real=True),
        key_cache=CacheArgument("key", 0),
        value_cache=CacheArgument("value", 0),
        block_tables=InputArgument("block_tables", real=True),
        context_lengths=InputArgument(
            "context_lengths" if decode else "context_lengths_host", real=True
        ),
        cu_seqlens_q=InputArgument("cu_seqlens_q_host", real=True),
        sequences=ExtentArgument(_SEQUENCES, real=True),
    )
    build.call("aten.add", ("out",), x=hidden, y=mixed, out=residual)
    head = Head(residual.buffer, len(build.calls))
    if not decode:
        rows = InputArgument("last_rows")
        build.call("aten.index_select", ("out",), x=residual, rows=rows, out=last)
    build.call(
        "aten.linear",
        ("out",),
        x=residual if decode else last,
        weight=WeightArgument("head", (0, VOCABULARY)),
        bias=ValueArgument(None),
        out=logits,
    )
    if not greedy:
        return build.finish(logits, head)
    chosen = build.tokens("chosen")
    build.call("aten.argmax_rows", ("out",), x=logits, out=chosen)
    return build.finish(logits, head, chosen)


def entries(
    decode: tuple[int, ...] = DECODE_BUCKETS,
    prefill: tuple[int, ...] = PREFILL_BUCKETS,
    ranks: int = 1,
) -> tuple[PhaseEntry, ...]:
    """The plans of both phases for these buckets, as a manifest lists them."""
    most = {"sequences": decode[-1]}
    return (
        phase_entry(PREFILL.key, prefill, most, ranks),
        phase_entry(DECODE.key, decode, most, ranks),
    )


def toy_weights() -> dict[str, torch.Tensor]:
    """Random weights, always the same; the head has two rows more than the vocabulary."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    width = HEADS * HEAD_DIM
    return {
        "words": random(VOCABULARY, HIDDEN),
        "places": random(MAX_CONTEXT, HIDDEN),
        "qkv": random(3 * width, HIDDEN) / 2,
        "qkv_bias": random(3 * width) / 2,
        # Rows of one length, or the longest would win nearly always.
        "head": torch.nn.functional.normalize(random(VOCABULARY + 2, HIDDEN)) * 4,
    }


def reference_logits(tokens: list[int]) -> torch.Tensor:
    """Logits after the last of ``tokens``, [vocabulary], without cache, pages or padding."""
    weights = toy_weights()
    hidden = weights["words"][tokens] + weights["places"][: len(tokens)]
    merged = hidden @ weights["qkv"].T + weights["qkv_bias"]
    query, key, value = (
        part.view(-1, HEADS, HEAD_DIM).transpose(0, 1) for part in merged.chunk(3, dim=1)
    )
    scores = query @ key.transpose(1, 2) / math.sqrt(HEAD_DIM)
    mask = torch.ones(len(tokens), len(tokens), dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(mask, -math.inf).softmax(-1) @ value
    residual = hidden + mixed.transpose(0, 1).reshape(len(tokens), -1)
    return residual[-1] @ weights["head"][:VOCABULARY].T


def reference_greedy(prompt: list[int], number: int) -> list[int]:
    """``number`` greedy tokens after a prompt."""
    tokens = list(prompt)
    for _ in range(number):
        tokens.append(int(reference_logits(tokens).argmax()))
    return tokens[len(prompt) :]


def write_toy(root: Path, greedy: bool = False, ranks: int = 1, **changes: Any) -> Path:
    """Write the artifact to ``root``; ``changes`` replace fields of its manifest. Each of several
    ``ranks`` has all weights in a file of its own, but for :func:`toy_plan`'s embedding."""
    files = tuple(
        "weights/all.safetensors" if ranks == 1 else f"weights/rank-{rank}/all.safetensors"
        for rank in range(ranks)
    )
    for folder in ("plans", *(str(Path(file).parent) for file in files)):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("prefill", "decode"):
        plan = json.dumps(phase_to_json(toy_plan(name, greedy, ranks)))
        (root / "plans" / f"{name}.json").write_text(plan)
    weights = toy_weights()
    for rank, file in enumerate(files):
        words = weights["words"] if rank == 0 else torch.zeros_like(weights["words"])
        save_file({**weights, "words": words}, str(root / file))
    facts = ModelFacts(
        name="toy",
        architecture="Toy",
        layers=1,
        vocabulary=VOCABULARY,
        hidden=HIDDEN,
        query_heads=HEADS,
        kv_heads=HEADS,
        head_dim=HEAD_DIM,
        parameters=sum(weight.numel() for weight in weights.values()),
        maximum_positions=MAX_CONTEXT,
        eos_token_ids=EOS,
    )
    cache = key_value_cache(
        1, HEADS, HEAD_DIM, "float32", BLOCK_SIZE, BLOCKS_PER_SEQUENCE, "blocks_tokens_heads"
    )
    manifest = Manifest(
        target="cpu",
        dtype="float32",
        abi_profile=None,
        versions={"glmc": "0.1.0"},
        model=facts,
        cache=cache,
        limits=Limits(MAX_CONTEXT),
        guards=Guards("0.1.0", "2.5", "cpu"),
        weights={
            name: WeightEntry(files, "float32", tuple(weight.shape))
            for name, weight in weights.items()
        },
        weights_included=True,
        files={},
        phases=entries(ranks=ranks),
        ranks=Ranks(ranks),
    )
    write_manifest(root, replace(manifest, **changes))
    return root


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest with the hashes of the files that are there now."""
    files = {
        path.relative_to(root).as_posix(): FileEntry(sha256_of(path), path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    data = manifest_to_json(replace(manifest, files=files))
    (root / "manifest.json").write_text(json.dumps(data))
