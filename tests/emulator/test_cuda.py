"""The same calls on CUDA tensors: an NVIDIA GPU here, never a Kunlun card."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import VendorCheckError, load

from .absmax import quantise
from .paging import BLOCK, make_paged, prefix_sum
from .test_moe_experts import EXPERTS, HIDDEN, INNER, TOP_K, make_case, reference

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _exact_float32_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def test_norm_rope_and_product() -> None:
    x, weight = torch.randn(6, 64), torch.randn(64)
    cache, positions = torch.randn(16, 16), torch.arange(6)
    results = []
    for device in ("cpu", DEVICE):
        ops = load("P-A").kunlun_ops
        rows, scale = x.to(device, copy=True), weight.to(device)
        out = torch.empty_like(rows)
        ops.add_rmsnorm(rows, out.zero_(), scale, rows, residual_output=out)
        ops.rotary_embedding(positions.to(device), rows, out, 32, cache.to(device), True)
        product = torch.empty(6, 6, device=device)
        ops.matmul(rows, out, product)
        results.append(product.cpu())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("profile", ["P-A", "P-B"])
def test_attention(profile: str) -> None:
    paged, dim = make_paged([5, 9], 2, 32), 32
    query, total = torch.randn(2, 4, dim), prefix_sum([5, 9])
    results = []
    for device in ("cpu", DEVICE):
        ops = load(profile).kunlun_ops
        keys, values = paged.key_cache.to(device), paged.value_cache.to(device)
        tables, lengths = paged.block_tables.to(device), paged.lengths.to(device, copy=True)
        decoded = torch.empty(2, 4, dim, device=device)
        if profile == "P-B":
            ops.paged_attention(
                decoded, query.to(device), keys, values, tables, paged.lengths, lengths
            )
        else:
            ops.speculative_attention(
                decoded, query[None].to(device), keys, values, paged.lengths, lengths, 2, 1, 64,
                4, dim, 0.0, 2, BLOCK, tables.shape[1], block_tables=tables,
            )  # fmt: skip
        prompt, lod = torch.empty(2, 4, dim, device=device), prefix_sum([1, 1])
        ops.prefill_attention(
            query.to(device), keys, values, prompt, True, True, block_table=tables,
            context_qlen_lod_cpu=lod, context_qlen_lod_xpu=lod.to(device, copy=True),
            context_kvlen_lod_cpu=total, context_kvlen_lod_xpu=total.to(device, copy=True),
        )  # fmt: skip
        torch.testing.assert_close(decoded, prompt, rtol=1e-5, atol=1e-5)
        results.append(decoded.cpu())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_expert_chain() -> None:
    case, ops, tokens = make_case(9), load("P-A").kunlun_ops, 9
    ids = case.ids.to(DEVICE)
    histogram = torch.zeros(12, EXPERTS, dtype=torch.int32, device=DEVICE)
    ops.gen_block_statistic(ids, histogram)
    expand = torch.empty(tokens * TOP_K, HIDDEN, device=DEVICE)
    index = torch.empty(tokens * TOP_K, dtype=torch.int32, device=DEVICE)
    lod = torch.zeros(EXPERTS + 1, dtype=torch.int32, device=DEVICE)
    counts = torch.zeros(EXPERTS, dtype=torch.int32, device=DEVICE)
    ops.moe_pre_sorted(case.x.to(DEVICE), ids, histogram, expand, index, counts, lod)
    both = torch.empty(tokens, TOP_K, 2 * INNER, device=DEVICE)
    ops.moe_fc(expand, case.w13.to(DEVICE), lod, index, TOP_K, both)
    hidden = torch.empty(tokens, TOP_K, INNER, device=DEVICE)
    ops.swiglu(both, hidden)
    out = torch.empty(tokens, TOP_K, HIDDEN, device=DEVICE)
    ops.moe_fc(hidden.view(-1, INNER), case.w2.to(DEVICE), lod, index, TOP_K, out)
    y, ones = torch.empty(tokens, HIDDEN, device=DEVICE), torch.ones(tokens, TOP_K, device=DEVICE)
    ops.moe_post(out, index.view(tokens, TOP_K), case.scores.to(DEVICE), ones, y)
    torch.testing.assert_close(y.cpu().double(), reference(case), rtol=1e-5, atol=1e-5)


def test_router_cache_and_int8() -> None:
    logits, bias = torch.randn(5, 16), torch.randn(16)
    picked = []
    for device in ("cpu", DEVICE):
        ops = load("P-A").kunlun_ops
        ids = torch.empty(5, 4, dtype=torch.int32, device=device)
        weights = torch.empty(5, 4, device=device)
        histogram = torch.zeros(12, 16, dtype=torch.int32, device=device)
        ops.moe_sigmoid_group_topk_norm(
            logits.to(device), ids, weights, histogram, bias.to(device), 1.0, 4, 2
        )
        picked.append((ids.cpu(), histogram.cpu()))
        key = torch.randn(5, 2, 32, device=device)
        caches = [torch.zeros(2, 2, 4, 32, device=device) for _ in range(2)]
        ops.reshape_and_cache_flash(key, key + 1, *caches, torch.arange(5, device=device))
        torch.testing.assert_close(caches[0][1, :, 0], key[4])
        rows = torch.randn(4, 64, device=device)
        quantised, absmax = quantise(rows)
        product = torch.empty(4, 4, dtype=torch.bfloat16, device=device)
        other, other_max = quantised.clone(), absmax.clone()
        ops.matmul(quantised, other, product, x_pc_max=absmax, w_pc_max=other_max)
        want = rows @ rows.t()
        assert (product - want).norm() / want.norm() < 0.02
    assert torch.equal(picked[0][0], picked[1][0])
    assert torch.equal(picked[0][1], picked[1][1])


def test_host_lengths_on_the_device_fail() -> None:
    paged, ops = make_paged([4], 1, 32), load("P-B").kunlun_ops
    query, lengths = torch.randn(1, 1, 32, device=DEVICE), paged.lengths.to(DEVICE)
    arguments = (paged.key_cache.to(DEVICE), paged.value_cache.to(DEVICE))
    tables = paged.block_tables.to(DEVICE)
    with pytest.raises(VendorCheckError, match="host tensor"):
        ops.paged_attention(
            torch.empty_like(query), query, *arguments, tables, lengths, lengths.clone()
        )
    with pytest.raises(VendorCheckError, match="as the others"):
        ops.paged_attention(
            torch.empty_like(query), query, *arguments, paged.block_tables, paged.lengths, lengths
        )
