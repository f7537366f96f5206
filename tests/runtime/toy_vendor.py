"""A tiny artifact whose plan calls the vendor: one decoder layer with routed experts, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.manifest import Guards, Manifest, ModelFacts, WeightEntry
from glmc_runtime.format.plan import (
    Buffer,
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    InputArgument,
    InputSpec,
    PhasePlan,
    Segment,
    ValueArgument,
    WeightArgument,
)
from glmc_runtime.format.plan_json import phase_to_json
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.toy import (
    BLOCK_SIZE,
    BLOCKS_PER_SEQUENCE,
    MAX_CONTEXT,
    VOCABULARY,
    key_value_cache,
    write_manifest,
    write_toy,
)

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, ROTARY = 64, 4, 2, 32, 16
EXPERTS, TOP_K, WIDTH, CLUSTERS = 8, 2, 32, 12
QUERY, KEY = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
EPS = 1e-5
TOKENS, SEQUENCES = Extent.of(tokens=1), Extent.of(sequences=1)


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    angles = torch.arange(MAX_CONTEXT)[:, None] / 100 ** (torch.arange(ROTARY // 2) / 8)
    return {
        "words": random(VOCABULARY, HIDDEN) * 8,
        "norm": torch.ones(HIDDEN) + random(HIDDEN),
        "qkv": random(QUERY + 2 * KEY, HIDDEN),
        "table": torch.cat([angles.cos(), angles.sin()], 1),
        "out": random(HIDDEN, QUERY),
        "gate": random(EXPERTS, HIDDEN),
        "bias": random(EXPERTS),
        "gate_up": random(EXPERTS, 2 * WIDTH, HIDDEN),
        "down": random(EXPERTS, HIDDEN, WIDTH),
        "one": torch.ones(1),
        "head": random(VOCABULARY, HIDDEN),
    }


class Builder:
    """Buffers one after the other, calls in order, attention and experts as their own nodes."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.calls: list[Call] = []
        self.end = Extent()

    def buffer(self, *shape: Extent | int, dtype: str = "float32") -> BufferArgument:
        extents = tuple(Extent(constant=item) if isinstance(item, int) else item for item in shape)
        rows = extents[0]
        for extent in extents[1:]:
            rows = rows * extent.constant
        number = len(self.buffers)
        self.buffers.append(Buffer(number, f"b{number}", dtype, extents, self.end, 0, 99))
        self.end += rows * 4
        return BufferArgument(number)

    def call(self, function: str, writes: str, node: str = "", **arguments: Any) -> None:
        kinds = (BufferArgument, InputArgument, WeightArgument, CacheArgument, ExtentArgument)
        wrapped = {
            name: item if isinstance(item, kinds) else ValueArgument(item)
            for name, item in arguments.items()
        }
        self.calls.append(
            Call(
                function,
                wrapped,
                tuple(writes.split()),
                function.endswith("attention"),
                node or f"node_{len(self.calls)}",
                node,
                0,
                "model.layers.0",
            )
        )


def _shaped(argument: BufferArgument, *shape: Extent | int, real: bool = False) -> BufferArgument:
    extents: Shape = tuple(
        Extent(constant=item) if isinstance(item, int) else item for item in shape
    )
    return BufferArgument(argument.buffer, extents, real)


def plan(name: str) -> PhasePlan:
    build = Builder()
    hidden, branch = build.buffer(TOKENS, HIDDEN), build.buffer(TOKENS, HIDDEN)
    qkv = build.buffer(TOKENS, QUERY + 2 * KEY)
    query, mixed = build.buffer(TOKENS, QUERY), build.buffer(TOKENS, QUERY)
    key, value = build.buffer(TOKENS, KEY), build.buffer(TOKENS, KEY)
    caches = {
        "key": CacheArgument("key", 0),
        "value": CacheArgument("value", 0),
    }
    build.call(
        "aten.embedding",
        "out",
        ids=InputArgument("token_ids"),
        weight=WeightArgument("words"),
        out=hidden,
    )
    build.call(
        "kunlun_ops.rmsnorm",
        "output",
        x=hidden,
        weight=WeightArgument("norm"),
        output=branch,
        eps=EPS,
    )
    build.call("aten.linear", "out", x=branch, weight=WeightArgument("qkv"), bias=None, out=qkv)
    build.call(
        "aten.split_columns",
        "out_0 out_1 out_2",
        x=qkv,
        sizes=[QUERY, KEY, KEY],
        out_0=query,
        out_1=key,
        out_2=value,
    )
    build.call(
        "kunlun_ops.rotary_embedding",
        "query key",
        positions=InputArgument("positions"),
        query=query,
        key=key,
        head_size=HEAD_DIM,
        cos_sin_cache=WeightArgument("table"),
        is_neox=True,
    )
    build.call(
        "kunlun_ops.reshape_and_cache_flash",
        "key_cache value_cache",
        key=_shaped(key, TOKENS, KV_HEADS, HEAD_DIM),
        value=_shaped(value, TOKENS, KV_HEADS, HEAD_DIM),
        key_cache=caches["key"],
        value_cache=caches["value"],
        slot_mapping=InputArgument("slot_mapping"),
        BLHD_LAYOUT=False,
    )
    build.call("aten.zero", "out", out=mixed)
    _attention(build, name, query, mixed, caches)
    build.call("aten.linear", "out", x=mixed, weight=WeightArgument("out"), bias=None, out=branch)
    build.call(
        "kunlun_ops.add_rmsnorm",
        "output residual_output",
        x=branch,
        y=hidden,
        weight=WeightArgument("norm"),
        output=branch,
        eps=EPS,
        residual_output=hidden,
    )
    routed = _experts(build, branch)
    build.call("aten.add", "out", x=hidden, y=routed, out=hidden)
    last, logits = build.buffer(SEQUENCES, HIDDEN), build.buffer(SEQUENCES, VOCABULARY)
    build.call("aten.index_select", "out", x=hidden, rows=InputArgument("last_rows"), out=last)
    build.call("aten.linear", "out", x=last, weight=WeightArgument("head"), bias=None, out=logits)
    count = len(build.calls)
    place = next(number for number, call in enumerate(build.calls) if call.host)
    segments = (
        Segment(0, place - 1, True),
        Segment(place, place, False),
        Segment(place + 1, count - 1, True),
    )
    buffers, calls = tuple(build.buffers), tuple(build.calls)
    return PhasePlan(name, _inputs(), buffers, calls, segments, logits.buffer, build.end)


def _inputs() -> tuple[InputSpec, ...]:
    bounds = (Extent.of(sequences=1, constant=1),)
    table = (SEQUENCES, Extent(constant=BLOCKS_PER_SEQUENCE))
    names = [f"cu_seqlens_{of}{side}" for of in ("q", "k") for side in ("", "_host")]
    return (
        InputSpec("token_ids", "int64", (TOKENS,)),
        InputSpec("positions", "int64", (TOKENS,)),
        InputSpec("slot_mapping", "int64", (TOKENS,)),
        InputSpec("block_tables", "int32", table),
        InputSpec("context_lengths", "int32", (SEQUENCES,)),
        InputSpec("context_lengths_host", "int32", (SEQUENCES,)),
        *(InputSpec(name, "int32", bounds) for name in names),
        InputSpec("last_rows", "int64", (SEQUENCES,)),
    )


def _attention(
    build: Builder,
    name: str,
    query: BufferArgument,
    mixed: BufferArgument,
    caches: dict[str, CacheArgument],
) -> None:
    def given(item: str) -> InputArgument:
        return InputArgument(item, real=True)

    if name == "prefill":
        build.call(
            "kunlun_ops.prefill_attention",
            "out",
            q=_shaped(query, TOKENS, HEADS, HEAD_DIM, real=True),
            k=caches["key"],
            v=caches["value"],
            out=_shaped(mixed, TOKENS, HEADS, HEAD_DIM, real=True),
            is_causal=True,
            is_prefix_cache=True,
            alpha=1.0,
            block_table=given("block_tables"),
            context_qlen_lod_cpu=given("cu_seqlens_q_host"),
            context_qlen_lod_xpu=given("cu_seqlens_q"),
            context_kvlen_lod_cpu=given("cu_seqlens_k_host"),
            context_kvlen_lod_xpu=given("cu_seqlens_k"),
        )
        return
    build.call(
        "kunlun_ops.speculative_attention",
        "out",
        out=_shaped(mixed, TOKENS, HEADS, HEAD_DIM, real=True),
        q=_shaped(query, 1, TOKENS, HEADS, HEAD_DIM, real=True),
        k_cache=caches["key"],
        v_cache=caches["value"],
        context_lens_cpu=given("context_lengths_host"),
        context_lens_xpu=given("context_lengths"),
        batch_num=ExtentArgument(SEQUENCES, real=True),
        qlen=1,
        max_context_len=MAX_CONTEXT,
        head_num=HEADS,
        head_dim=HEAD_DIM,
        scale=0.0,
        kv_head_num=KV_HEADS,
        block_size=BLOCK_SIZE,
        max_num_blocks_per_seq=BLOCKS_PER_SEQUENCE,
        max_window_size=-1,
        block_tables=given("block_tables"),
    )


def _experts(build: Builder, x: BufferArgument) -> BufferArgument:
    def ints(*shape: Extent | int) -> BufferArgument:
        return build.buffer(*shape, dtype="int32")

    slots = TOKENS * TOP_K
    logits, ids = build.buffer(TOKENS, EXPERTS), ints(TOKENS, TOP_K)
    scores, ones = build.buffer(TOKENS, TOP_K), build.buffer(TOKENS, TOP_K)
    histogram, counts, lod = ints(CLUSTERS, EXPERTS), ints(EXPERTS), ints(EXPERTS + 1)
    index, expanded = ints(slots), build.buffer(slots, HIDDEN)
    both = build.buffer(TOKENS, TOP_K, 2 * WIDTH)
    active = build.buffer(TOKENS, TOP_K, WIDTH)
    rows, out = build.buffer(TOKENS, TOP_K, HIDDEN), build.buffer(TOKENS, HIDDEN)
    build.call("aten.linear", "out", x=x, weight=WeightArgument("gate"), bias=None, out=logits)
    for item in (histogram, counts, lod):
        build.call("aten.zero", "out", out=item)
    build.call(
        "kunlun_ops.moe_sigmoid_group_topk_norm",
        "topk_index norm_score block_static",
        x=logits,
        topk_index=ids,
        norm_score=scores,
        block_static=histogram,
        bias=WeightArgument("bias"),
        scale=1.5,
        n_group=1,
        topk_group=1,
    )
    # Counted a second time from the ids, as when the router is not the vendor's.
    build.call("aten.zero", "out", out=histogram)
    build.call(
        "kunlun_ops.gen_block_statistic",
        "block_statistic",
        topk_ids=ids,
        block_statistic=histogram,
    )
    shared: dict[str, Any] = {
        "node": "experts",
        "sorted_tokens_num_lod": lod,
        "sorted_tokens_idx": index,
        "moe_topk": TOP_K,
        "act": None,
    }
    build.call(
        "kunlun_ops.moe_pre_sorted",
        "moe_expand moe_index expert_m sorted_tokens_num_lod",
        node="experts",
        x=x,
        topk_index=ids,
        block_statistic=histogram,
        moe_expand=expanded,
        moe_index=index,
        expert_m=counts,
        sorted_tokens_num_lod=lod,
        index_have_neg=False,
    )
    gate_up = WeightArgument("gate_up")
    build.call("kunlun_ops.moe_fc", "y", x=expanded, weight=gate_up, y=both, **shared)
    build.call("kunlun_ops.swiglu", "y", node="experts", x=both, y=active)
    build.call("aten.zero", "out", node="experts", out=ones)
    one = WeightArgument("one")
    build.call("aten.add", "out", node="experts", x=ones, y=one, out=ones)
    flat = _shaped(active, slots, WIDTH)
    build.call("kunlun_ops.moe_fc", "y", x=flat, weight=WeightArgument("down"), y=rows, **shared)
    build.call(
        "kunlun_ops.moe_post",
        "y",
        node="experts",
        x=rows,
        moe_index=_shaped(index, TOKENS, TOP_K),
        normed_scale=scores,
        dequant_scale=ones,
        y=out,
    )
    return out


def write_vendor_toy(root: Path) -> Path:
    """An xpu artifact of profile P-A."""
    write_toy(root)
    manifest: Manifest = load_artifact(root).manifest
    plans = {name: plan(name) for name in ("prefill", "decode")}
    for name, phase in plans.items():
        (root / "plans" / f"{name}.json").write_text(json.dumps(phase_to_json(phase)))
    packed = weights()
    save_file(packed, str(root / "weights" / "all.safetensors"))
    keywords: dict[str, tuple[str, ...]] = {}
    for phase in plans.values():
        for call in phase.calls:
            if call.function.startswith("kunlun_ops."):
                keywords[call.function] = tuple(call.arguments)
    model: ModelFacts = replace(manifest.model, hidden=HIDDEN, query_heads=HEADS)
    write_manifest(
        root,
        replace(
            manifest,
            target="xpu",
            abi_profile="P-A",
            model=replace(model, kv_heads=KV_HEADS, head_dim=HEAD_DIM),
            cache=key_value_cache(
                1,
                KV_HEADS,
                HEAD_DIM,
                "float32",
                BLOCK_SIZE,
                BLOCKS_PER_SEQUENCE,
                "blocks_heads_tokens",
            ),
            guards=Guards("0.1.0", "2.5", "xpu", keywords),
            weights={
                name: WeightEntry(("weights/all.safetensors",), "float32", tuple(item.shape))
                for name, item in packed.items()
            },
        ),
    )
    return root
