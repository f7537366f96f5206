"""The expert chain against a per-token loop, and its traps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError, UnmodelledError, VendorCheckError

from .absmax import quantise

EXPERTS, TOP_K, HIDDEN, INNER = 6, 2, 16, 8


@dataclass(frozen=True)
class Case:
    x: torch.Tensor
    ids: torch.Tensor
    scores: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor


def make_case(tokens: int = 7, dtype: torch.dtype = torch.float32) -> Case:
    return Case(
        x=torch.randn(tokens, HIDDEN).to(dtype),
        ids=torch.rand(tokens, EXPERTS).argsort(dim=1)[:, :TOP_K].to(torch.int32).contiguous(),
        scores=torch.rand(tokens, TOP_K),
        w13=torch.randn(EXPERTS, 2 * INNER, HIDDEN).to(dtype),
        w2=torch.randn(EXPERTS, HIDDEN, INNER).to(dtype),
    )


def reference(case: Case) -> torch.Tensor:
    """Token by token, slot by slot, in float64."""
    result = torch.zeros(case.x.shape, dtype=torch.float64)
    for token in range(case.x.shape[0]):
        for slot in range(TOP_K):
            expert = int(case.ids[token, slot])
            if expert < 0:
                continue
            both = case.w13[expert].double() @ case.x[token].double()
            hidden = torch.nn.functional.silu(both[:INNER]) * both[INNER:]
            result[token] += float(case.scores[token, slot]) * (case.w2[expert].double() @ hidden)
    return result


def sort_tokens(
    vendor: EmulatedVendor, case: Case, histogram: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = case.x.shape[0]
    expand = torch.empty(tokens * TOP_K, HIDDEN, dtype=case.x.dtype)
    index = torch.empty(tokens * TOP_K, dtype=torch.int32)
    lod = torch.zeros(EXPERTS + 1, dtype=torch.int32)
    if histogram is None:
        histogram = torch.zeros(12, EXPERTS, dtype=torch.int32)
        vendor.kunlun_ops.gen_block_statistic(case.ids, histogram)
    vendor.kunlun_ops.moe_pre_sorted(
        x=case.x,
        topk_index=case.ids,
        block_statistic=histogram,
        moe_expand=expand,
        moe_index=index,
        expert_m=torch.zeros(EXPERTS, dtype=torch.int32),
        sorted_tokens_num_lod=lod,
    )
    return expand, index, lod


def run_experts(
    vendor: EmulatedVendor, case: Case, expand: torch.Tensor, index: torch.Tensor, lod: torch.Tensor
) -> torch.Tensor:
    ops, tokens = vendor.kunlun_ops, case.x.shape[0]
    both = torch.empty(tokens, TOP_K, 2 * INNER, dtype=case.x.dtype)
    ops.moe_fc(expand, case.w13, lod, index, TOP_K, both)
    hidden = torch.empty(tokens, TOP_K, INNER, dtype=case.x.dtype)
    ops.swiglu(both, hidden)
    out = torch.empty(tokens, TOP_K, HIDDEN, dtype=case.x.dtype)
    ops.moe_fc(hidden.view(tokens * TOP_K, INNER), case.w2, lod, index, TOP_K, out)
    y = torch.empty(tokens, HIDDEN, dtype=case.x.dtype)
    ones = torch.ones(tokens, TOP_K)
    ops.moe_post(out, index.view(tokens, TOP_K), case.scores, ones, y)
    return y


@pytest.mark.parametrize("tokens", [1, 7, 50])
def test_sorted_chain(vendor: EmulatedVendor, tokens: int) -> None:
    case = make_case(tokens)
    y = run_experts(vendor, case, *sort_tokens(vendor, case))
    torch.testing.assert_close(y.double(), reference(case), rtol=1e-5, atol=1e-5)
    assert vendor.calls["moe_fc"] == 2
    assert vendor.calls["moe_post"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sorted_chain_in_low_precision(vendor: EmulatedVendor, dtype: torch.dtype) -> None:
    case = make_case(20, dtype)
    y = run_experts(vendor, case, *sort_tokens(vendor, case))
    expected = reference(case)
    error = (y.double() - expected).norm() / expected.norm()
    assert error < (1e-2 if dtype == torch.bfloat16 else 2e-3)


def test_intermediate_rows_are_in_expert_order(vendor: EmulatedVendor) -> None:
    case = make_case(5)
    expand, index, lod = sort_tokens(vendor, case)
    order = case.ids.reshape(-1).long().sort(stable=True)
    torch.testing.assert_close(expand, case.x[order.indices // TOP_K])
    assert index[order.indices].tolist() == list(range(5 * TOP_K))
    assert lod.diff().tolist() == torch.bincount(order.values, minlength=EXPERTS).tolist()


def test_reading_intermediates_by_token_is_wrong(vendor: EmulatedVendor) -> None:
    case = make_case(16)
    expand, index, lod = sort_tokens(vendor, case)
    out = torch.empty(16, TOP_K, 2 * INNER)
    vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, out)
    by_token = torch.einsum("tknh,th->tkn", case.w13[case.ids.long()], case.x)
    assert (out - by_token).abs().max() > 1.0


def test_int8_chain_uses_absmax(vendor: EmulatedVendor) -> None:
    case = make_case(8, torch.float16)
    expand, index, lod = sort_tokens(vendor, case)
    ops = vendor.kunlun_ops
    (x_q, x_max), (w_q, w_max) = quantise(expand), quantise(case.w13)
    y = torch.empty(8, TOP_K, 2 * INNER, dtype=torch.float16)
    ops.moe_fc(
        x_q, w_q, lod, index, TOP_K, y, x_perchannel_max=x_max, w_perchannel_max=w_max,
        topk_ids=case.ids,
    )  # fmt: skip
    plain = torch.empty_like(y)
    ops.moe_fc(expand, case.w13, lod, index, TOP_K, plain)
    error = (y.float() - plain.float()).norm() / plain.float().norm()
    assert error < 0.02
    ops.moe_fc(x_q, w_q, lod, index, TOP_K, y, x_perchannel_max=x_max / 127, w_perchannel_max=w_max)
    assert (y.float() - plain.float()).norm() / plain.float().norm() > 0.9


def test_int8_needs_both_scales(vendor: EmulatedVendor) -> None:
    x = torch.zeros(2, HIDDEN, dtype=torch.int8)
    w = torch.zeros(EXPERTS, 4, HIDDEN, dtype=torch.int8)
    lod = torch.tensor([0, 2, 2, 2, 2, 2, 2], dtype=torch.int32)
    y = torch.empty(1, 2, 4, dtype=torch.float16)
    index = torch.arange(2, dtype=torch.int32)
    with pytest.raises(VendorCheckError, match="x_perchannel_max"):
        vendor.kunlun_ops.moe_fc(x, w, lod, index, 2, y)


def test_foreign_experts_are_not_written(vendor: EmulatedVendor) -> None:
    case = make_case(6)
    case.ids[case.ids >= 3] = -1
    case.scores[case.ids < 0] = 0
    expand = torch.zeros(12, HIDDEN)
    index = torch.empty(12, dtype=torch.int32)
    lod = torch.zeros(EXPERTS + 1, dtype=torch.int32)
    arguments = dict(
        x=case.x, topk_index=case.ids, block_statistic=None, moe_expand=expand, moe_index=index,
        sorted_tokens_num_lod=lod,
    )  # fmt: skip
    with pytest.raises(GuardError, match="index_have_neg"):
        vendor.kunlun_ops.moe_pre_sorted(
            **arguments, expert_m=torch.zeros(EXPERTS, dtype=torch.int32)
        )
    vendor.kunlun_ops.moe_pre_sorted(
        **arguments, expert_m=torch.zeros(EXPERTS, dtype=torch.int32), index_have_neg=True
    )
    present = int(lod[-1])
    assert present == int((case.ids >= 0).sum())
    assert not expand[present:].any()
    both = torch.zeros(6, TOP_K, 2 * INNER)
    vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, both)
    hidden, out = torch.empty(6, TOP_K, INNER), torch.zeros(6, TOP_K, HIDDEN)
    vendor.kunlun_ops.swiglu(both, hidden)
    vendor.kunlun_ops.moe_fc(hidden.view(12, INNER), case.w2, lod, index, TOP_K, out)
    y = torch.empty(6, HIDDEN)
    vendor.kunlun_ops.moe_post(out, index.view(6, TOP_K), case.scores, torch.ones(6, TOP_K), y)
    torch.testing.assert_close(y.double(), reference(case), rtol=1e-5, atol=1e-5)


def test_stale_histogram_and_lod_are_refused(vendor: EmulatedVendor) -> None:
    case = make_case(4)
    histogram = torch.zeros(12, EXPERTS, dtype=torch.int32)
    vendor.kunlun_ops.gen_block_statistic(case.ids, histogram)
    with pytest.raises(GuardError, match="zero it"):
        vendor.kunlun_ops.gen_block_statistic(case.ids, histogram)
    with pytest.raises(GuardError, match="histogram of topk_index"):
        sort_tokens(vendor, case, histogram * 2)
    with pytest.raises(GuardError, match="sorted_tokens_num_lod"):
        vendor.kunlun_ops.moe_pre_sorted(
            case.x, case.ids, histogram, torch.empty(8, HIDDEN),
            torch.empty(8, dtype=torch.int32), torch.zeros(EXPERTS, dtype=torch.int32),
            torch.ones(EXPERTS + 1, dtype=torch.int32),
        )  # fmt: skip


def test_stale_histogram_spoils_the_lod_in_silence(unguarded: EmulatedVendor) -> None:
    case = make_case(4)
    histogram = torch.zeros(12, EXPERTS, dtype=torch.int32)
    for _ in range(2):
        unguarded.kunlun_ops.gen_block_statistic(case.ids, histogram)
    _, _, lod = sort_tokens(unguarded, case, histogram)
    assert int(lod[-1]) == 2 * 4 * TOP_K


@pytest.mark.parametrize("tokens", [16, 1024])
def test_swish_glu_is_wrong_from_1024_tokens(vendor: EmulatedVendor, tokens: int) -> None:
    case = make_case(tokens)
    expand, index, lod = sort_tokens(vendor, case)
    fused = torch.zeros(tokens, TOP_K, 2 * INNER)
    vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, fused, act="SWISH_GLU")
    both, right = torch.empty_like(fused), torch.empty(tokens, TOP_K, INNER)
    vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, both)
    vendor.kunlun_ops.swiglu(both, right)
    error = (fused[..., :INNER] - right).norm() / right.norm()
    assert error > 10 if tokens >= 1024 else error < 1e-6


def test_unknown_arguments_are_refused(vendor: EmulatedVendor) -> None:
    case = make_case(4)
    expand, index, lod = sort_tokens(vendor, case)
    y = torch.empty(4, TOP_K, 2 * INNER)
    with pytest.raises(UnmodelledError, match="use_pack_int4"):
        vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, y, use_pack_int4=True)
    with pytest.raises(UnmodelledError, match="act"):
        vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, y, act="RELU")
    with pytest.raises(TypeError, match="moe_fc"):
        vendor.kunlun_ops.moe_fc(expand, case.w13, lod, index, TOP_K, y, activation="silu")


def test_wrong_shapes_fail_as_the_vendor_does(vendor: EmulatedVendor) -> None:
    case = make_case(4)
    expand, index, lod = sort_tokens(vendor, case)
    y = torch.empty(4, TOP_K, 2 * INNER)
    for broken in (
        dict(x=expand[:, :-1].contiguous()),
        dict(sorted_tokens_num_lod=lod.long()),
        dict(sorted_tokens_num_lod=lod + 1),
        dict(y=torch.empty(4, TOP_K, INNER)),
        dict(weight=case.w13.transpose(1, 2)),
    ):
        arguments = dict(
            x=expand, weight=case.w13, sorted_tokens_num_lod=lod, sorted_tokens_idx=index,
            moe_topk=TOP_K, y=y,
        )  # fmt: skip
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.moe_fc(**{**arguments, **broken})


def test_moe_post_refuses_positions_outside(vendor: EmulatedVendor) -> None:
    x, scale = torch.zeros(2, TOP_K, HIDDEN), torch.ones(2, TOP_K)
    index = torch.tensor([[0, 1], [2, 4]], dtype=torch.int32)
    with pytest.raises(GuardError, match="moe_index"):
        vendor.kunlun_ops.moe_post(x, index, scale, scale.clone(), torch.empty(2, HIDDEN))


def test_moe_post_multiplies_both_scales(vendor: EmulatedVendor) -> None:
    x, scale, dequant = torch.randn(3, TOP_K, HIDDEN), torch.rand(3, TOP_K), torch.rand(3, TOP_K)
    index = torch.randperm(3 * TOP_K).to(torch.int32).view(3, TOP_K)
    y = torch.empty(3, HIDDEN)
    vendor.kunlun_ops.moe_post(x, index, scale, dequant, y)
    rows = x.view(-1, HIDDEN)[index.long()]
    torch.testing.assert_close(y, torch.einsum("tk,tk,tkh->th", scale, dequant, rows))
