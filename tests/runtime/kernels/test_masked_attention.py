"""Attention over the caller's own cache: against torch's, for memory of any strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cpu.processor import multiplies
from glmc_runtime.kernels.traced import find_traced_binder

HEADS, KV_HEADS, HEAD_DIM, LENGTH = 4, 2, 16, 9
NONE, ADDED, HIDDEN = "no mask", "mask", "one query that sees nothing"


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def memory(layout: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [batch, kv_heads, length, head_dim]."""
    shape = (batch, KV_HEADS, LENGTH, HEAD_DIM)
    parts = []
    for seed in (1, 2):
        if layout == "cache":
            parts.append(random(*shape, seed=seed))
        elif layout == "rows of a longer cache":
            parts.append(random(batch, KV_HEADS, LENGTH + 7, HEAD_DIM, seed=seed)[:, :, :LENGTH])
        elif layout == "every second sequence":
            parts.append(random(2 * batch, KV_HEADS, LENGTH, HEAD_DIM, seed=seed)[::2])
        else:  # tokens first
            parts.append(random(batch, LENGTH, KV_HEADS, HEAD_DIM, seed=seed).transpose(1, 2))
    return parts[0], parts[1]


def run(query: torch.Tensor, mask: torch.Tensor | None, causal: bool, **over: Any) -> torch.Tensor:
    out = torch.full(query.shape, torch.nan)
    size = (query.shape[0] * HEADS, LENGTH)
    find_traced_binder("cpu.masked_attention")(
        {
            "query": query,
            "mask": mask,
            "scale": 0.3,
            "causal": causal,
            "safe_softmax": True,
            "scores": torch.full(size, torch.nan),
            "floats": torch.full(size, torch.nan),
            "out": out,
            **over,
        }
    )()
    return out


@pytest.mark.parametrize(
    "layout", ["cache", "rows of a longer cache", "every second sequence", "tokens first"]
)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("masked", [NONE, ADDED, HIDDEN])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_against_torch(
    layout: str, tokens: int, batch: int, masked: str, strided: bool, wide: bool
) -> None:
    keys, values = memory(layout, batch)
    query = random(batch, tokens, 2 * HEADS, HEAD_DIM, seed=3)[:, :, :HEADS]
    query = query if strided else query.contiguous()
    mask = None
    if masked != NONE:
        mask = torch.zeros(batch, 1, tokens, LENGTH)
        mask[:, :, :, LENGTH - 2 :] = -torch.inf
        if masked == HIDDEN:
            mask[0, :, 0] = -torch.inf
    expected = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.repeat_interleave(2, 1),
        values.repeat_interleave(2, 1),
        attn_mask=mask,
        scale=0.3,
    ).transpose(1, 2)
    more = {"wide": torch.full(keys.shape, torch.nan), "scores": None} if wide else {}
    found = run(query, mask, False, keys=keys, values=values, **more)
    torch.testing.assert_close(found, expected.nan_to_num(0.0))


@pytest.mark.parametrize("layout", ["cache", "every second sequence"])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_without_a_safe_softmax_a_query_that_sees_nothing_gives_nan(
    layout: str, tokens: int, batch: int, shown: bool, wide: bool
) -> None:
    """``shown``: the mask says what is seen, and is not added."""
    keys, values = memory(layout, batch)
    query = random(batch, tokens, HEADS, HEAD_DIM, seed=3)
    mask = torch.zeros(batch, 1, tokens, LENGTH)
    mask[:, :, :, LENGTH - 2 :] = -torch.inf
    mask[0, :, 0] = -torch.inf
    scores = query.transpose(1, 2) @ keys.repeat_interleave(2, 1).mT * 0.3 + mask
    expected = (scores.softmax(-1) @ values.repeat_interleave(2, 1)).transpose(1, 2)
    more = {"wide": torch.full(keys.shape, torch.nan), "scores": None} if wide else {}
    given = mask == 0 if shown else mask
    found = run(query, given, False, keys=keys, values=values, safe_softmax=False, **more)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found[0, 0].isnan().all() and int(found.isnan().sum()) == HEADS * HEAD_DIM


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("tokens", [1, 3])
def test_no_keys_give_zeros(tokens: int, safe: bool) -> None:
    """As a softmax of nothing, and a product with it, do."""
    keys, values = (part[:, :, :0] for part in memory("cache", 2))
    query, mask = random(2, tokens, HEADS, HEAD_DIM, seed=3), torch.zeros(2, 1, tokens, 0)
    found = run(query, mask, False, keys=keys, values=values, safe_softmax=safe)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("masked", [NONE, ADDED])
def test_a_query_that_is_no_number_gives_none(masked: str) -> None:
    """Only a query that sees nothing gets nothing."""
    keys, values = memory("cache", 2)
    query = random(2, 1, HEADS, HEAD_DIM, seed=3)
    query[1] = torch.nan
    mask = None if masked == NONE else torch.zeros(2, 1, 1, LENGTH)
    found = run(query, mask, False, keys=keys, values=values)
    assert found[1].isnan().all()
    assert not found[0].isnan().any()


def test_a_mask_without_a_dimension_of_heads() -> None:
    keys, values = memory("cache", 2)
    query = random(2, 1, HEADS, HEAD_DIM, seed=3)
    mask = torch.zeros(1, LENGTH)
    mask[:, 4:] = -torch.inf
    found = run(query, mask, False, keys=keys, values=values)
    expected = run(query, mask[None, None], False, keys=keys, values=values)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tokens", [1, LENGTH])
def test_causal_without_a_mask(tokens: int) -> None:
    """Query i sees keys 0 to i, whatever the length: one query sees one key."""
    keys, values = memory("cache", 2)
    query = random(2, tokens, HEADS, HEAD_DIM, seed=3)
    expected = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.repeat_interleave(2, 1),
        values.repeat_interleave(2, 1),
        is_causal=True,
        scale=0.3,
    ).transpose(1, 2)
    torch.testing.assert_close(run(query, None, True, keys=keys, values=values), expected)


def test_keys_that_do_not_fit_are_refused() -> None:
    keys, values = memory("cache", 1)
    query = random(1, 1, HEADS, HEAD_DIM, seed=3)
    with pytest.raises(PlanError, match="do not fit"):
        run(query, None, False, keys=keys[:, :, 1:], values=values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wide_one_rounds_nothing_but_the_result(dtype: torch.dtype) -> None:
    keys, values = (part.to(dtype) for part in memory("rows of a longer cache", 2))
    query = random(2, 1, HEADS, HEAD_DIM, seed=3).to(dtype)
    mask = torch.zeros(2, 1, 1, LENGTH, dtype=dtype)
    mask[0, :, :, :4] = -torch.inf
    wide = torch.full(keys.shape, torch.nan)
    out = torch.full(query.shape, torch.nan, dtype=dtype)
    run(query, mask, False, keys=keys, values=values, wide=wide, scores=None, out=out)
    expected = F.scaled_dot_product_attention(
        query.transpose(1, 2).double(),
        keys.double().repeat_interleave(2, 1),
        values.double().repeat_interleave(2, 1),
        attn_mask=mask.double(),
        scale=0.3,
    ).transpose(1, 2)
    error = (out.double() - expected).abs()
    assert bool((error <= torch.finfo(dtype).eps / 2 * expected.abs() + 1e-6).all())


def test_what_a_processor_multiplies() -> None:
    assert multiplies(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert isinstance(multiplies(dtype), bool)
