"""Decode attention against torch's own, and its traps."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError, UnmodelledError, load

from .paging import BLOCK, Paged, dense_attention, make_paged

HEADS, KV_HEADS, DIM = 4, 2, 32
LENGTHS = [5, 1, 9, 8]


def arguments(paged: Paged, query: torch.Tensor, length: int = 1) -> dict[str, Any]:
    return dict(
        out=torch.empty(query.numel() // DIM, DIM, dtype=query.dtype),
        q=query,
        k_cache=paged.key_cache,
        v_cache=paged.value_cache,
        context_lens_cpu=paged.lengths,
        context_lens_xpu=paged.lengths.clone(),
        batch_num=paged.lengths.shape[0],
        qlen=length,
        max_context_len=64,
        head_num=HEADS,
        head_dim=DIM,
        scale=0.0,
        kv_head_num=KV_HEADS,
        block_size=BLOCK,
        max_num_blocks_per_seq=paged.block_tables.shape[1],
        block_tables=paged.block_tables,
    )


def expected(paged: Paged, query: torch.Tensor, scale: float) -> torch.Tensor:
    """query [B, qlen, Hq, D]."""
    rows = [
        dense_attention(query[row], paged.keys[row], paged.values[row], scale)
        for row in range(query.shape[0])
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_one_token_each(vendor: EmulatedVendor, scale: float) -> None:
    paged = make_paged(LENGTHS, KV_HEADS, DIM)
    query = torch.randn(1, 4, HEADS, DIM)
    call = {**arguments(paged, query), "scale": scale}
    vendor.kunlun_ops.speculative_attention(**call)
    want = expected(paged, query.view(4, 1, HEADS, DIM), scale or DIM**-0.5)
    torch.testing.assert_close(call["out"].double().view(want.shape), want, rtol=1e-5, atol=1e-6)
    assert vendor.calls == {"speculative_attention": 1}


def test_several_tokens_each_are_causal(vendor: EmulatedVendor) -> None:
    paged = make_paged([5, 3, 9], KV_HEADS, DIM)
    query = torch.randn(3, 3, HEADS, DIM)
    call = arguments(paged, query, length=3)
    vendor.kunlun_ops.speculative_attention(**call)
    want = expected(paged, query, DIM**-0.5)
    torch.testing.assert_close(call["out"].double().view(want.shape), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rounds_once(vendor: EmulatedVendor, dtype: torch.dtype) -> None:
    paged = make_paged(LENGTHS, KV_HEADS, DIM, dtype)
    query = torch.randn(1, 4, HEADS, DIM).to(dtype)
    call = arguments(paged, query)
    vendor.kunlun_ops.speculative_attention(**call)
    want = expected(paged, query.view(4, 1, HEADS, DIM), DIM**-0.5).to(dtype)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(
        call["out"].view(want.shape), want, rtol=tolerance, atol=tolerance * 0.1
    )


@pytest.mark.parametrize("profile", ["P-A", "P-B"])
def test_paged_attention_agrees(profile: str) -> None:
    vendor = load(profile)
    paged = make_paged(LENGTHS, KV_HEADS, DIM)
    query = torch.randn(4, HEADS, DIM)
    out = torch.empty(4, HEADS, DIM)
    vendor.kunlun_ops.paged_attention(
        x=query, k_cache=paged.key_cache, v_cache=paged.value_cache,
        block_tables=paged.block_tables, context_lens_cpu=paged.lengths,
        context_lens_xpu=paged.lengths.clone(), is_context=False, is_causal=True, out=out,
        vo_head_dim=DIM,
    )  # fmt: skip
    want = expected(paged, query.unsqueeze(1), DIM**-0.5)[:, 0]
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-6)


def test_window_and_sink() -> None:
    vendor = load("P-A")
    paged = make_paged([9], KV_HEADS, DIM)
    query, sink = torch.randn(1, 1, HEADS, DIM), torch.randn(HEADS)
    call = {**arguments(paged, query), "max_window_size": 3, "sink": sink}
    vendor.kunlun_ops.speculative_attention(**call)
    for head in range(HEADS):
        keys = paged.keys[0][-3:, head // 2].double()
        logits = (keys @ query[0, 0, head].double()) / math.sqrt(DIM)
        weights = torch.cat([logits, sink[head : head + 1].double()]).softmax(0)[:3]
        want = weights @ paged.values[0][-3:, head // 2].double()
        torch.testing.assert_close(call["out"][head].double(), want, rtol=1e-5, atol=1e-6)


def test_signatures_differ_by_profile() -> None:
    names = {
        profile: set(inspect.signature(load(profile).kunlun_ops.speculative_attention).parameters)
        for profile in ("P-A", "P-B", "P-C")
    }
    assert {"max_window_size", "sink"} <= names["P-A"]
    assert not {"max_window_size", "sink", "qlod_cpu", "qlod_xpu"} & names["P-B"]
    assert {"qlod_cpu", "qlod_xpu"} <= names["P-C"]
    assert not {"qlod_cpu", "qlod_xpu"} & names["P-A"]


@pytest.mark.parametrize(
    ("profile", "keyword"),
    [("P-B", "max_window_size"), ("P-B", "sink"), ("P-C", "max_window_size"), ("P-A", "qlod_cpu")],
)
def test_keyword_of_another_profile_is_a_type_error(profile: str, keyword: str) -> None:
    vendor = load(profile)
    paged = make_paged([4], KV_HEADS, DIM)
    call = {**arguments(paged, torch.randn(1, 1, HEADS, DIM)), keyword: None}
    with pytest.raises(TypeError, match=keyword):
        vendor.kunlun_ops.speculative_attention(**call)
    assert not vendor.calls


def test_uniform_query_lods_only() -> None:
    vendor = load("P-C")
    paged = make_paged([4, 4], KV_HEADS, DIM)
    call = arguments(paged, torch.randn(1, 2, HEADS, DIM))
    lod = torch.tensor([0, 1, 2], dtype=torch.int32)
    vendor.kunlun_ops.speculative_attention(**call, qlod_cpu=lod, qlod_xpu=lod.clone())
    ragged = torch.tensor([0, 2, 2], dtype=torch.int32)
    with pytest.raises(UnmodelledError, match="qlod_cpu"):
        vendor.kunlun_ops.speculative_attention(**call, qlod_cpu=ragged, qlod_xpu=ragged.clone())


def test_batch_of_1024_fails_and_1023_does_not(vendor: EmulatedVendor) -> None:
    for batch in (1023, 1024):
        lengths = torch.ones(batch, dtype=torch.int32)
        cache = torch.randn(1, KV_HEADS, BLOCK, DIM)
        paged = Paged(
            [], [], cache, cache.clone(), torch.zeros(batch, 1, dtype=torch.int32), lengths
        )
        call = arguments(paged, torch.randn(1, batch, HEADS, DIM))
        if batch == 1023:
            vendor.kunlun_ops.speculative_attention(**call)
            assert not call["out"].isnan().any()
        else:
            with pytest.raises(ValueError, match="Check 0 == ret failed"):
                vendor.kunlun_ops.speculative_attention(**call)


def test_host_lengths_are_the_ones_read(vendor: EmulatedVendor) -> None:
    paged = make_paged([5, 9], KV_HEADS, DIM)
    query = torch.randn(1, 2, HEADS, DIM)
    call = {**arguments(paged, query), "context_lens_xpu": torch.tensor([1, 1], dtype=torch.int32)}
    with pytest.raises(GuardError, match="context_lens_cpu / context_lens_xpu"):
        vendor.kunlun_ops.speculative_attention(**call)
    vendor.guard = False
    vendor.kunlun_ops.speculative_attention(**call)
    want = expected(paged, query.view(2, 1, HEADS, DIM), DIM**-0.5)
    torch.testing.assert_close(call["out"].double().view(want.shape), want, rtol=1e-5, atol=1e-6)


def test_lengths_must_include_the_new_tokens(vendor: EmulatedVendor) -> None:
    paged = make_paged([5, 2], KV_HEADS, DIM)
    with pytest.raises(GuardError, match="include the 3 new tokens"):
        vendor.kunlun_ops.speculative_attention(
            **arguments(paged, torch.randn(2, 3, HEADS, DIM), length=3)
        )


def test_wrong_calls_fail_as_the_vendor_does(vendor: EmulatedVendor) -> None:
    paged = make_paged(LENGTHS, KV_HEADS, DIM)
    query = torch.randn(1, 4, HEADS, DIM)
    call = arguments(paged, query)
    far = paged.block_tables.clone()
    far[0, 0] = 99
    for broken in (
        dict(q=torch.randn(HEADS, 4, DIM).transpose(0, 1)[None]),
        dict(q=query.double()),
        dict(q=query.view(4, HEADS, DIM)),
        dict(block_tables=paged.block_tables.long()),
        dict(block_tables=far),
        dict(max_context_len=8),
        dict(block_size=BLOCK * 2),
        dict(kv_head_num=HEADS),
        dict(out=torch.empty(4, HEADS, DIM + 1)),
        dict(k_cache=paged.key_cache.half()),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.speculative_attention(**{**call, **broken})


def test_output_may_not_be_the_query(vendor: EmulatedVendor) -> None:
    paged = make_paged(LENGTHS, KV_HEADS, DIM)
    query = torch.randn(1, 4, HEADS, DIM)
    with pytest.raises(GuardError, match="overlaps q"):
        vendor.kunlun_ops.speculative_attention(
            **{**arguments(paged, query), "out": query.view(4, HEADS, DIM)}
        )
