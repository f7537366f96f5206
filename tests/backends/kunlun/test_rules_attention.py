from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmc.errors import LoweringError
from glmc.lowering.target import SEQUENCES, TOKENS, Value, fixed
from glmc_runtime.format.extent import Extent
from tests.backends.kunlun.harness import (
    DTYPES,
    PROFILES,
    Bench,
    Counts,
    close,
    options,
    random,
    reference,
    tokens_by,
)

D, BLOCK, HEADS, KV_HEADS, BLOCKS = 32, 16, 4, 2, 9
SCALE = D**-0.5
anywhere = pytest.mark.parametrize("profile", PROFILES)
any_dtype = pytest.mark.parametrize("dtype", DTYPES)
HEAD_SHAPE = (TOKENS, fixed(HEADS), fixed(D))


def caches(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = (BLOCKS, KV_HEADS, BLOCK, D)
    return random(*shape, dtype=dtype, seed=5), random(*shape, dtype=dtype, seed=6)


@anywhere
@any_dtype
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [16, 32])
def test_qkv_rope_cache(
    profile: str, dtype: torch.dtype, normed: bool, interleaved: bool, rotary_dim: int
) -> None:
    tokens, real = 6, 4
    at = Bench(options(profile, dtype), Counts(tokens, tokens), Counts(real, real))
    k_cache, v_cache = caches(dtype)
    # Padded rows hold position 0 and a slot of the scratch block.
    given = {
        "qkv": random(tokens, (HEADS + 2 * KV_HEADS) * D, dtype=dtype),
        "q_norm": random(D, dtype=dtype, seed=1) if normed else None,
        "k_norm": random(D, dtype=dtype, seed=2) if normed else None,
        "positions": torch.tensor([0, 31, 95, 7, 0, 0]),
        "inverse_frequencies": 10000.0 ** (-torch.arange(rotary_dim // 2) / rotary_dim),
        "slot_mapping": torch.tensor([BLOCK + 3, 5 * BLOCK, 8 * BLOCK + 15, 2 * BLOCK, 0, 1]),
        "k_cache": k_cache.clone(),
        "v_cache": v_cache.clone(),
        "q_heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_dim": D,
        "interleaved": interleaved,
        "rope_scaling": 1.25,
        "norm_eps": 1e-5,
    }
    expected = reference("qkv_rope_cache", **given)
    values = {
        **given,
        "qkv": at.tensor("qkv", given["qkv"], tokens_by(given["qkv"].shape[1])),
        "q_norm": at.packed("q_norm", given["q_norm"]) if normed else None,
        "k_norm": at.packed("k_norm", given["k_norm"]) if normed else None,
        "positions": at.step("positions", given["positions"], (TOKENS,)),
        "inverse_frequencies": at.constant("rope", given["inverse_frequencies"]),
        "slot_mapping": at.step("slot_mapping", given["slot_mapping"], (TOKENS,)),
        "k_cache": at.cache("k", given["k_cache"]),
        "v_cache": at.cache("v", given["v_cache"]),
    }
    nothing: tuple[tuple[Extent, ...], torch.dtype] = ((), dtype)
    q, keys, rows = at.lower("qkv_rope_cache", values, [(HEAD_SHAPE, dtype), nothing, nothing])
    calls = at.run()
    for found, wanted in zip((q, keys, rows), expected, strict=True):
        close(at.read(found), wanted)
    assert calls["kunlun_ops.rmsnorm"] == (2 if normed else 0)
    assert sum(calls.values()) == (5 if normed else 3)
    assert not any(call.host for call in at.calls)
    assert at.weights["rope.cos_sin_96_1.25"][1].shape == (96, rotary_dim)


def test_rope_tables_of_one_model_are_shared_and_others_are_not() -> None:
    at = Bench(options(), Counts(2, 2), Counts(2, 2))
    k_cache, v_cache = caches(torch.float32)
    for name, scaling in (("rope", 1.0), ("rope", 1.0), ("rope", 2.0), ("other", 1.0)):
        at.lower(
            "qkv_rope_cache",
            _rope_arguments(at, name, scaling, k_cache, v_cache),
            [(HEAD_SHAPE, torch.float32)] + [((), torch.float32)] * 2,
        )
    assert sorted(name for name in at.weights if ".cos_sin" in name) == [
        "other.cos_sin_96_1",
        "rope.cos_sin_96_1",
        "rope.cos_sin_96_2",
    ]


def _rope_arguments(
    at: Bench, name: str, scaling: float, k_cache: Tensor, v_cache: Tensor
) -> dict[str, object]:
    width = (HEADS + 2 * KV_HEADS) * D
    return {
        "qkv": at.tensor("qkv", random(2, width), tokens_by(width)),
        "q_norm": None,
        "k_norm": None,
        "positions": at.step("positions", torch.tensor([0, 1]), (TOKENS,)),
        "inverse_frequencies": at.constant(name, torch.ones(8)),
        "slot_mapping": at.step("slot_mapping", torch.tensor([17, 18]), (TOKENS,)),
        "k_cache": at.cache("k", k_cache),
        "v_cache": at.cache("v", v_cache),
        "q_heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_dim": D,
        "interleaved": False,
        "rope_scaling": scaling,
        "norm_eps": 1e-5,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 48}, "do not know this head size"),
        ({"kv_heads": 3}, "multiple of the KV heads"),
        ({"inverse_frequencies": 17}, "can't turn this many entries"),
        ({"inverse_frequencies": "packed"}, "known at compile time"),
        ({"positions": "int32"}, "'positions' in one dtype only"),
    ],
)
def test_qkv_rope_cache_refuses(change: dict[str, object], message: str) -> None:
    at = Bench(options(), Counts(2, 2), Counts(2, 2))
    arguments = {**_rope_arguments(at, "rope", 1.0, *caches(torch.float32)), **change}
    if change.get("inverse_frequencies") == 17:
        arguments["inverse_frequencies"] = at.constant("long", torch.ones(17))
    if change.get("inverse_frequencies") == "packed":
        arguments["inverse_frequencies"] = at.packed("packed", torch.ones(8))
    if change.get("positions") == "int32":
        positions = torch.tensor([0, 1], dtype=torch.int32)
        arguments["positions"] = at.step("positions", positions, (TOKENS,))
    with pytest.raises(LoweringError, match=message):
        at.lower(
            "qkv_rope_cache", arguments, [(HEAD_SHAPE, torch.float32)] + [((), torch.float32)] * 2
        )


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def prefill(
    at: Bench, q: Tensor, k_cache: Tensor, v_cache: Tensor, scale: float
) -> tuple[Value, Tensor]:
    """Two sequences, 3 new of 20 tokens and 5 new of 5; the second pair of rows is padding."""
    tables = int32([[3, 4, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0]])
    cu_seqlens_q, cu_seqlens_k = int32([0, 3, 8]), int32([0, 20, 25])
    expected = reference(
        "prefill_attention", q=q, k_cache=k_cache, v_cache=v_cache, block_tables=tables,
        cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, scale=scale,
    )  # fmt: skip
    bounds = (SEQUENCES + fixed(1),)
    values = {
        "q": at.tensor("q", q, HEAD_SHAPE),
        "k_cache": at.cache("k", k_cache),
        "v_cache": at.cache("v", v_cache),
        "block_tables": at.step("block_tables", tables, (SEQUENCES, fixed(6))),
        "cu_seqlens_q": at.step("cu_seqlens_q", cu_seqlens_q, bounds),
        "cu_seqlens_k": at.step("cu_seqlens_k", cu_seqlens_k, bounds),
        "scale": scale,
    }
    return at.lower("prefill_attention", values, [(HEAD_SHAPE, q.dtype)], phase="prefill")[
        0
    ], expected


@anywhere
@any_dtype
@pytest.mark.parametrize("scale", [SCALE, 0.3])
def test_prefill_attention(profile: str, dtype: torch.dtype, scale: float) -> None:
    at = Bench(options(profile, dtype), Counts(10, 2), Counts(8, 2))
    q = random(10, HEADS, D, dtype=dtype)
    if profile == "P-B" and scale != SCALE:
        with pytest.raises(LoweringError, match="prefill_attention takes no scale"):
            prefill(at, q, *caches(dtype), scale)
        return
    out, expected = prefill(at, q, *caches(dtype), scale)
    calls = at.run()
    close(at.read(out), expected)
    assert not at.read(out)[8:].any()
    assert calls == {"aten.zero": 1, "kunlun_ops.prefill_attention": 1}
    assert [call.host for call in at.calls] == [False, True]
    assert ("alpha" in at.calls[1].arguments) == (profile != "P-B")


def test_prefill_needs_int32_bounds() -> None:
    at = Bench(options(), Counts(10, 2), Counts(8, 2))
    q, (k_cache, v_cache) = random(10, HEADS, D), caches(torch.float32)
    values = {
        "q": at.tensor("q", q, HEAD_SHAPE),
        "k_cache": at.cache("k", k_cache),
        "v_cache": at.cache("v", v_cache),
        "block_tables": at.step("block_tables", torch.zeros(2, 6), (SEQUENCES, fixed(6))),
        "cu_seqlens_q": at.step("cu_seqlens_q", torch.zeros(3), (SEQUENCES + fixed(1),)),
        "cu_seqlens_k": at.step("cu_seqlens_k", torch.zeros(3), (SEQUENCES + fixed(1),)),
        "scale": SCALE,
    }
    with pytest.raises(LoweringError, match="'block_tables' in one dtype only"):
        at.lower("prefill_attention", values, [(HEAD_SHAPE, torch.float32)])


def decode(at: Bench, scale: float, dtype: torch.dtype) -> tuple[Value, Tensor]:
    """Three sequences in a bucket of four; the padded one has one token in the scratch block."""
    q, (k_cache, v_cache) = random(4, HEADS, D, dtype=dtype), caches(dtype)
    tables = int32([[1, 2, 3, 4, 5, 6], [7, 0, 0, 0, 0, 0], [8, 2, 0, 0, 0, 0], [0] * 6])
    lengths = int32([96, 1, 17, 1])
    given = {"q": q, "k_cache": k_cache, "v_cache": v_cache, "block_tables": tables}
    expected = reference("decode_attention", **given, context_lengths=lengths, scale=scale)
    values = {
        "q": at.tensor("q", q, HEAD_SHAPE),
        "k_cache": at.cache("k", k_cache),
        "v_cache": at.cache("v", v_cache),
        "block_tables": at.step("block_tables", tables, (SEQUENCES, fixed(6))),
        "context_lengths": at.step("context_lengths", lengths, (SEQUENCES,)),
        "scale": scale,
    }
    return at.lower("decode_attention", values, [(HEAD_SHAPE, dtype)])[0], expected


@anywhere
@any_dtype
@pytest.mark.parametrize("scale", [SCALE, 0.3])
def test_decode_attention(profile: str, dtype: torch.dtype, scale: float) -> None:
    at = Bench(options(profile, dtype), Counts(4, 4), Counts(3, 3))
    if profile == "P-B" and scale != SCALE:
        with pytest.raises(LoweringError, match="paged_attention takes no scale"):
            decode(at, scale, dtype)
        return
    out, expected = decode(at, scale, dtype)
    calls = at.run()
    close(at.read(out, real=True), expected[:3])
    assert not at.read(out)[3:].any()
    function = "paged_attention" if profile == "P-B" else "speculative_attention"
    assert calls == {"aten.zero": 1, f"kunlun_ops.{function}": 1}
    call = at.calls[1]
    assert call.host and ("max_window_size" in call.arguments) == (profile == "P-A")
    assert call.arguments["context_lens_cpu"].input == "context_lengths_host"


def test_real_views_need_a_buffer_or_an_input() -> None:
    at = Bench(options(), Counts(4, 4), Counts(3, 3))
    q = replace(at.packed("q", random(4, HEADS, D)), shape=HEAD_SHAPE)
    values = {
        "q": q,
        "k_cache": at.cache("k", caches(torch.float32)[0]),
        "v_cache": at.cache("v", caches(torch.float32)[1]),
        "block_tables": at.step("block_tables", int32([[0]]), (SEQUENCES, fixed(1))),
        "context_lengths": at.step("context_lengths", int32([1]), (SEQUENCES,)),
        "scale": SCALE,
    }
    with pytest.raises(LoweringError, match="no real part"):
        at.lower("decode_attention", values, [(HEAD_SHAPE, torch.float32)])
