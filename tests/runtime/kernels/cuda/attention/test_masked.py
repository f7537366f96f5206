"""Attention to a program's own keys and values against torch's: any mask, any memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.traced import find_traced_binder
from tests.runtime.kernels.cuda.paged import DEVICE, counters_are_zero, not_worse
from tests.runtime.kernels.harness import close, nan, random
from tests.runtime.kernels.test_masked_attention import memory
from tests.support.thinned import crossed, thinned

SCALE = 0.3


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **over: Any) -> Tensor:
    """query [batch, tokens, q_heads, head_dim]; twice, which must give the same bits."""
    out = nan(*query.shape, dtype=query.dtype).to(DEVICE)
    arguments = {
        "query": query,
        "keys": keys,
        "values": values,
        "mask": mask,
        "scale": SCALE,
        "causal": False,
        "safe_softmax": True,
        "out": out,
    }
    given = {
        name: value.to(DEVICE) if isinstance(value, Tensor) else value
        for name, value in {**arguments, **over}.items()
    }
    thunk = find_traced_binder("cuda.masked_attention")({**given, "out": out})
    thunk()
    first = out.clone()
    out.fill_(torch.nan)
    thunk()
    assert torch.equal(out.nan_to_num(nan=7.0), first.nan_to_num(nan=7.0))
    assert counters_are_zero()
    return out.cpu()


def reference(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False
) -> Tensor:
    group = query.shape[2] // keys.shape[1]
    if mask is not None:
        mask = mask.to(query.dtype)
    found = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.repeat_interleave(group, 1),
        values.repeat_interleave(group, 1),
        attn_mask=mask,
        is_causal=causal,
        scale=SCALE,
    )
    return found.transpose(1, 2)


def case(
    length: int,
    batch: int = 1,
    q_heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    query = random(batch, 1, q_heads, head_dim, dtype=dtype, seed=1)
    keys, values = (
        random(batch, kv_heads, length, head_dim, dtype=dtype, seed=seed) for seed in (2, 3)
    )
    return query, keys, values


def window(batch: int, length: int, *seen: tuple[int, int]) -> Tensor:
    """A mask [batch, 1, 1, length] under which sequence i sees tokens ``seen[i]``."""
    mask = torch.full((batch, 1, 1, length), -torch.inf)
    for row, (begin, end) in zip(mask, seen, strict=True):
        row[..., begin:end] = 0.0
    return mask


@pytest.mark.parametrize(
    "layout", ["cache", "rows of a longer cache", "every second sequence", "tokens first"]
)
@pytest.mark.parametrize("tokens", [1, 3])
def test_memory_of_any_strides(layout: str, tokens: int) -> None:
    keys, values = memory(layout, 3)
    query = random(3, tokens, 8, 16)[:, :, :4]
    close(attend(query, keys, values, None), reference(query, keys, values, None))


def test_heads_whose_entries_lie_apart() -> None:
    query, keys, values = case(9, 2)
    apart = [part.transpose(-1, -2).contiguous().transpose(-1, -2) for part in (query, keys)]
    assert all(part.stride(-1) != 1 for part in apart)
    close(attend(*apart, values, None), reference(query, keys, values, None))


# Either side of a tile, parts without tokens, one merge and several; the rest repeats them.
LENGTHS = ([1, 15, 16, 17, 70], [1, 3, 8], [2, 16])
QUICK_LENGTHS = (
    *((1, 8, 2), (15, 1, 2), (16, 3, 2), (17, 3, 16)),
    *((70, 1, 16), (70, 8, 2), (70, 8, 16)),
)


@pytest.mark.parametrize(("length", "splits", "fan"), crossed(*LENGTHS, quick=QUICK_LENGTHS))
def test_lengths_and_merges(length: int, splits: int, fan: int) -> None:
    query, keys, values = case(length)
    cut = {"splits": splits, "BLOCK": 16, "FAN": fan}
    found = attend(query, keys, values, None, configuration=cut)
    close(found, reference(query, keys, values, None))


@pytest.mark.parametrize(
    "seen",
    crossed(
        [[0, 70], [0, 1], [69, 70], [0, 17], [33, 64], [30, 31], [5, 66]],
        quick=[([0, 1],), ([69, 70],), ([33, 64],), ([5, 66],)],
    ),
    ids=str,
)
def test_what_a_mask_hides_is_not_read(seen: list[int]) -> None:
    begin, end = seen
    query, keys, values = case(70, 2)
    mask = window(2, 70, (begin, end), (0, 70))
    expected = reference(query, keys, values, mask)
    for part in (keys, values):  # a cache may hold anything where nothing was written
        part[0, :, end:] = torch.nan
        part[0, :, : begin // 16 * 16] = torch.nan
    cut = {"splits": 3, "BLOCK": 16}
    close(attend(query, keys, values, mask, configuration=cut), expected)


def test_holes_in_a_mask() -> None:
    query, keys, values = case(90, 2)
    mask = torch.zeros(2, 1, 1, 90)
    mask[0, ..., 20:75] = -torch.inf
    mask[1, ..., ::2] = -torch.inf
    found = attend(query, keys, values, mask, configuration={"splits": 2, "BLOCK": 16})
    close(found, reference(query, keys, values, mask))


def test_a_query_that_sees_nothing_gets_nothing() -> None:
    query, keys, values = case(40, 2)
    mask = window(2, 40, (0, 0), (3, 20))
    found = attend(query, keys, values, mask, configuration={"splits": 3, "BLOCK": 16})
    close(found, reference(query, keys, values, mask).nan_to_num(0.0))
    assert not found[0].any()


@pytest.mark.parametrize(
    ("splits", "fan", "by_head"),
    crossed(
        *([1, 3, 8], [2, 16], [False, True]),
        quick=[(1, 2, False), (3, 16, True), (8, 2, False), (3, 2, True)],
    ),
)
def test_without_a_safe_softmax_a_query_that_sees_nothing_gives_nan(
    splits: int, fan: int, by_head: bool
) -> None:
    """Stretches without a token that is seen still give nothing to one that has any."""
    query, keys, values = case(70, 2)
    mask = window(2, 70, (0, 0), (33, 50))
    if by_head:  # of the second sequence every head but the first sees something
        mask = mask.repeat(1, 4, 1, 1)
        mask[1, 0] = -torch.inf
    cut = {"splits": splits, "BLOCK": 16, "FAN": fan}
    found = attend(query, keys, values, mask, safe_softmax=False, configuration=cut)
    scores = query.transpose(1, 2) @ keys.repeat_interleave(2, 1).mT * SCALE + mask
    expected = (scores.softmax(-1) @ values.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found[0].isnan().all()
    assert found[1, 0].isnan().all(-1).tolist() == [by_head, False, False, False]


def test_several_tokens_without_a_safe_softmax() -> None:
    keys, values = memory("cache", 2)
    query, mask = random(2, 3, 4, 16), torch.zeros(2, 1, 3, 9)
    mask[1, :, 2] = -torch.inf
    found = attend(query, keys, values, mask, safe_softmax=False)
    assert found[1, 2].isnan().all() and int(found.isnan().sum()) == 4 * 16


def test_scores_that_are_all_far_below_are_still_weighed() -> None:
    """The smallest number in place of -inf, as some write masks: all tokens are as good."""
    query, keys, values = case(20)
    mask = torch.full((1, 1, 1, 20), torch.finfo(torch.float32).min)
    close(attend(query, keys, values, mask), values.mean(2).repeat_interleave(2, 1)[:, None])


def test_a_query_that_is_no_number_gives_none() -> None:
    query, keys, values = case(40, 2)
    query[1] = torch.nan
    found = attend(query, keys, values, None, configuration={"splits": 3, "BLOCK": 16})
    assert found[1].isnan().all()
    assert not found[0].isnan().any()


@pytest.mark.parametrize("shape", [(1, 40), (1, 1, 1, 40), (1, 4, 1, 40), (2, 4, 1, 40)])
def test_masks_of_any_shape(shape: tuple[int, ...]) -> None:
    query, keys, values = case(40, 2)
    mask = random(*shape, seed=4)
    mask[..., 7:30] = -torch.inf
    found = attend(query, keys, values, mask, configuration={"splits": 2, "BLOCK": 16})
    close(found, reference(query, keys, values, mask))


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim"), [(24, 1, 16), (32, 2, 16), (15, 3, 40), (4, 4, 64)]
)
def test_groups_and_heads(q_heads: int, kv_heads: int, head_dim: int) -> None:
    query, keys, values = case(37, 1, q_heads, kv_heads, head_dim)
    close(attend(query, keys, values, None), reference(query, keys, values, None))


@pytest.mark.parametrize("dtype", thinned([torch.bfloat16, torch.float16], [torch.float16]))
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    query, keys, values = case(70, 2, 16, 2, 64, dtype)
    mask = window(2, 70, (0, 33), (8, 70)).to(dtype)
    found = attend(query, keys, values, mask, configuration={"splits": 3, "BLOCK": 16})
    exact = reference(query.double(), keys.double(), values.double(), mask)
    scores = query[:, 0, :, None].float() @ keys.repeat_interleave(8, 1).mT.float()
    weights = (scores.to(dtype) * SCALE + mask).float().softmax(-1).to(dtype)
    eager = (weights @ values.repeat_interleave(8, 1))[:, :, 0][:, None]
    not_worse(found, eager, exact)


@pytest.mark.parametrize("tokens", [1, 9])
def test_causal_is_torchs_own(tokens: int) -> None:
    keys, values = memory("cache", 2)
    query = random(2, tokens, 4, 16)
    found = attend(query, keys, values, None, causal=True)
    close(found, reference(query, keys, values, None, causal=True))


def test_several_tokens_under_a_mask() -> None:
    keys, values = memory("cache", 2)
    query = random(2, 3, 4, 16)
    mask = torch.zeros(2, 1, 3, 9).masked_fill_(torch.ones(3, 9).triu(7).bool(), -torch.inf)
    close(attend(query, keys, values, mask), reference(query, keys, values, mask))


def test_nothing_to_attend() -> None:
    query, keys, values = case(9)
    assert attend(query[:0], keys[:0], values[:0], None).shape == (0, 1, 4, 16)
    assert not attend(query, keys[:, :, :0], values[:, :, :0], None).any()


def test_what_is_refused() -> None:
    query, keys, values = case(9)
    with pytest.raises(PlanError, match="do not fit"):
        attend(query, keys[:, :, 1:], values, None)
    three_heads = keys[:, :1].expand(1, 3, -1, -1)
    for wrong in (keys[..., :8], keys.repeat(2, 1, 1, 1), three_heads):
        with pytest.raises(PlanError, match="do not fit"):
            attend(query, wrong, wrong, None)
    for mask in (torch.zeros(1, 1, 1, 8), torch.zeros(2, 1, 1, 9), torch.zeros(1, 1, 1, 1, 9)):
        with pytest.raises(PlanError, match="mask does not fit"):
            attend(query, keys, values, mask)
    with pytest.raises(PlanError, match="added to the scores"):
        attend(query, keys, values, torch.ones(1, 1, 1, 9, dtype=torch.bool))
    with pytest.raises(PlanError, match="'values'"):
        attend(query, keys, values.half(), None)
