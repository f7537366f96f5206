"""Prefill attention against torch's own and the alpha rule."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError, UnmodelledError, load

from .paging import dense_attention, make_paged, prefix_sum

HEADS, KV_HEADS, DIM = 4, 2, 32
LENGTHS = [5, 1, 9]


def packed(lengths: list[int], heads: int = KV_HEADS) -> tuple[torch.Tensor, ...]:
    total = sum(lengths)
    shapes = ((total, HEADS, DIM), (total, heads, DIM), (total, heads, DIM))
    return tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("causal", [True, False])
def test_packed(vendor: EmulatedVendor, causal: bool) -> None:
    query, key, value = packed(LENGTHS)
    lod, out = prefix_sum(LENGTHS), torch.empty(sum(LENGTHS), HEADS * DIM)
    lse = torch.empty(HEADS, sum(LENGTHS))
    vendor.kunlun_ops.prefill_attention(
        q=query, k=key, v=value, out=out, is_causal=causal, context_qlen_lod_cpu=lod,
        context_qlen_lod_xpu=lod.clone(), softmax_lse=lse,
    )  # fmt: skip
    for start, stop in zip(lod.tolist(), lod.tolist()[1:], strict=False):
        part = slice(start, stop)
        want = dense_attention(query[part], key[part], value[part], DIM**-0.5, causal)
        got = out.view(-1, HEADS, DIM)[part].double()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    logits = (key[5, 0] @ query[5, 0]) / math.sqrt(DIM)  # the request of one token
    torch.testing.assert_close(lse[0, 5], logits)


def test_paged_prefix(vendor: EmulatedVendor) -> None:
    lengths, new = [7, 4, 9], [3, 4, 1]
    paged = make_paged(lengths, KV_HEADS, DIM)
    query = torch.randn(sum(new), HEADS, DIM)
    out, q_lod, kv_lod = torch.empty_like(query), prefix_sum(new), prefix_sum(lengths)
    vendor.kunlun_ops.prefill_attention(
        q=query, k=paged.key_cache, v=paged.value_cache, out=out, is_causal=True,
        is_prefix_cache=True, block_table=paged.block_tables, context_qlen_lod_cpu=q_lod,
        context_qlen_lod_xpu=q_lod.clone(), context_kvlen_lod_cpu=kv_lod,
        context_kvlen_lod_xpu=kv_lod.clone(),
    )  # fmt: skip
    for row in range(3):
        part = slice(int(q_lod[row]), int(q_lod[row + 1]))
        want = dense_attention(query[part], paged.keys[row], paged.values[row], DIM**-0.5)
        torch.testing.assert_close(out[part].double(), want, rtol=1e-5, atol=1e-6)


def test_alpha_multiplies_the_kernels_own_scale() -> None:
    vendor = load("P-A")
    query, key, value = packed([6])
    lod, out = prefix_sum([6]), torch.empty_like(query)
    wanted = 0.05
    vendor.kunlun_ops.prefill_attention(
        q=query, k=key, v=value, out=out, is_causal=True, alpha=wanted * math.sqrt(DIM),
        context_qlen_lod_cpu=lod, context_qlen_lod_xpu=lod.clone(),
    )  # fmt: skip
    want = dense_attention(query, key, value, wanted)
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-6)


def test_sliding_window() -> None:
    vendor = load("P-A")
    query, key, value = packed([6])
    lod, out = prefix_sum([6]), torch.empty_like(query)
    vendor.kunlun_ops.prefill_attention(
        q=query, k=key, v=value, out=out, is_causal=True, context_qlen_lod_cpu=lod,
        context_qlen_lod_xpu=lod.clone(), swa_left=2, swa_right=0,
    )  # fmt: skip
    want = dense_attention(query[5:], key[3:], value[3:], DIM**-0.5)
    torch.testing.assert_close(out[5:].double(), want, rtol=1e-5, atol=1e-6)


def test_alpha_is_a_type_error_on_p_b() -> None:
    for profile, has_alpha in (("P-A", True), ("P-B", False)):
        names = inspect.signature(load(profile).kunlun_ops.prefill_attention).parameters
        assert ("alpha" in names) is has_alpha
    query, key, value = packed([2])
    with pytest.raises(TypeError, match="alpha"):
        load("P-B").kunlun_ops.prefill_attention(
            q=query, k=key, v=value, out=torch.empty_like(query), is_causal=True, alpha=1.0
        )


def test_paged_without_causal_is_refused(vendor: EmulatedVendor) -> None:
    paged = make_paged([4], KV_HEADS, DIM)
    query, lod = torch.randn(4, HEADS, DIM), prefix_sum([4])
    with pytest.raises(UnmodelledError, match="is_causal"):
        vendor.kunlun_ops.prefill_attention(
            q=query, k=paged.key_cache, v=paged.value_cache, out=torch.empty_like(query),
            is_causal=False, is_prefix_cache=True, block_table=paged.block_tables,
            context_qlen_lod_cpu=lod, context_kvlen_lod_cpu=lod,
        )  # fmt: skip


def test_lods_are_checked(vendor: EmulatedVendor) -> None:
    query, key, value = packed([6])
    out = torch.empty_like(query)
    for lod in ([1, 6], [0, 4, 2], [0, 7]):
        vector = torch.tensor(lod, dtype=torch.int32)
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.prefill_attention(
                q=query, k=key, v=value, out=out, is_causal=True, context_qlen_lod_cpu=vector
            )
    host = prefix_sum([6])
    with pytest.raises(GuardError, match="context_qlen_lod_cpu"):
        vendor.kunlun_ops.prefill_attention(
            q=query, k=key, v=value, out=out, is_causal=True, context_qlen_lod_cpu=host,
            context_qlen_lod_xpu=prefix_sum([5]),
        )  # fmt: skip


def test_split_qkv_is_not_contiguous(vendor: EmulatedVendor) -> None:
    qkv = torch.randn(6, (HEADS + 2 * KV_HEADS) * DIM)
    query = qkv[:, : HEADS * DIM].view(6, HEADS, DIM)
    key = qkv[:, HEADS * DIM : (HEADS + KV_HEADS) * DIM].view(6, KV_HEADS, DIM)
    with pytest.raises(ValueError, match="contiguous"):
        vendor.kunlun_ops.prefill_attention(
            q=query, k=key, v=key, out=torch.empty(6, HEADS, DIM), is_causal=True
        )


def test_rows_beyond_the_lod_stay_poisoned(vendor: EmulatedVendor) -> None:
    query, key, value = packed([6])
    lod, out = prefix_sum([4]), torch.zeros_like(query)
    vendor.kunlun_ops.prefill_attention(
        q=query, k=key, v=value, out=out, is_causal=True, context_qlen_lod_cpu=lod,
        context_qlen_lod_xpu=lod.clone(),
    )  # fmt: skip
    assert not out[:4].isnan().any()
    assert out[4:].isnan().all()
