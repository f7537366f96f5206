"""Sums in an order of their own: right, the same for a row in any company, and one tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmc_runtime.errors import GuardError, PlanError
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from glmc_runtime.kernels.ordered import native
from tests.runtime.kernels.harness import close, nan, random

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (1, 2, 3, 4, 5, 7, 8, 64, 65, 131)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        required("ordered")
    except NoLibraryError as reason:
        pytest.skip(str(reason))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, segments: int = 1) -> Tensor:
    out = nan(x.shape[0], weight.shape[0], dtype=x.dtype)
    native.product(x, weight, out, bias, segments)()
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "depth"), [(1, 16), (7, 48), (16, 33), (37, 200), (100, 1)])
@pytest.mark.parametrize("segments", [1, 8])
def test_products_are_right(dtype: torch.dtype, size: int, depth: int, segments: int) -> None:
    bias = random(size, dtype=dtype, seed=3)
    for rows in ROWS:
        x = random(rows, depth, dtype=dtype, seed=1)
        weight = random(size, depth, dtype=dtype, seed=2)
        exact = (x.double() @ weight.double().t() + bias.double()).to(dtype)
        torch.testing.assert_close(
            product(x, weight, bias, segments).float(), exact.float(), rtol=2e-2, atol=1e-4
        ) if dtype == torch.bfloat16 else close(product(x, weight, bias, segments), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("segments", [1, 8])
@pytest.mark.usefixtures("threads")
def test_a_row_has_the_same_bits_in_any_company(dtype: torch.dtype, segments: int) -> None:
    x = random(131, 520, dtype=dtype, seed=1)
    weight = random(301, 520, dtype=dtype, seed=2)
    alone = torch.cat([product(row[None], weight, segments=segments) for row in x])
    for rows in ROWS:
        torch.set_num_threads(1 + rows % 3)
        assert torch.equal(product(x[:rows], weight, segments=segments), alone[:rows])
        assert torch.equal(product(x[-rows:], weight, segments=segments), alone[-rows:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_has_the_same_bits_in_any_shard(dtype: torch.dtype) -> None:
    x, weight = random(5, 72, dtype=dtype, seed=1), random(48, 72, dtype=dtype, seed=2)
    whole = product(x, weight)
    for first, last in ((0, 1), (3, 20), (40, 48)):
        assert torch.equal(product(x, weight[first:last].contiguous()), whole[:, first:last])


def test_mm_would_not_do() -> None:
    """What the tests above compare does differ where sums are left to torch."""
    x, weight = random(131, 520, seed=1), random(301, 520, seed=2)
    alone = torch.cat([row[None] @ weight.t() for row in x])
    assert not torch.equal(x @ weight.t(), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_make_one_tree(dtype: torch.dtype, ranks: int) -> None:
    """Each rank's part of k, added by halves, is the sum that one rank makes."""
    depth, rows = 8 * 27, 6
    x, weight = random(rows, depth, dtype=dtype, seed=1), random(19, depth, dtype=dtype, seed=2)
    parts = []
    for rank in range(ranks):
        part = slice(rank * depth // ranks, (rank + 1) * depth // ranks)
        out = nan(rows, 19)
        columns = x[:, part].contiguous(), weight[:, part].contiguous()
        native.product(*columns, out, None, 8 // ranks)()
        parts.append(out)
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    assert torch.equal(parts[0].to(dtype), product(x, weight, segments=8))


def test_segments_may_stay_apart() -> None:
    x, weight, out = random(3, 48, seed=1), random(5, 48, seed=2), nan(3, 4, 5)
    native.product(x, weight, out, None, 4, apart=True)()
    for segment, part in enumerate(out.unbind(1)):
        columns = slice(12 * segment, 12 * segment + 12)
        assert torch.equal(
            part, product(x[:, columns].contiguous(), weight[:, columns].contiguous())
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype: torch.dtype) -> None:
    x, weight = random(37, 52, dtype=dtype, seed=1), random(52, dtype=dtype, seed=2)
    out = nan(37, 52, dtype=dtype)
    native.norm(x, weight, 1e-5, out)()
    wide = x.float()
    scaled = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(dtype)
    close(out, scaled * weight)
    one = nan(1, 52, dtype=dtype)
    native.norm(x[20:21], weight, 1e-5, one)()
    assert torch.equal(one[0], out[20])


def test_norms_of_heads_of_a_merged_projection() -> None:
    qkv, weight = random(4, 6, 16, seed=1), random(16, seed=2)
    heads, out = qkv[:, 1:4], nan(4, 6, 16)
    native.norm(heads, weight, 1e-5, out[:, 2:5])()
    close(out[:, 2:5], F.rms_norm(heads, (16,), weight, 1e-5))
    assert out[:, :2].isnan().all() and out[:, 5:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates(dtype: torch.dtype) -> None:
    merged = (20 * random(9, 74, dtype=dtype)).contiguous()
    gate, up = merged[:, :37], merged[:, 37:]
    out = nan(9, 37, dtype=dtype)
    native.gated(gate, up, out)()
    torch.testing.assert_close(
        out, F.silu(gate) * up, rtol=2e-2 if dtype != torch.float32 else 2e-6, atol=1e-6
    )


def test_a_number_has_the_same_silu_in_any_place() -> None:
    """ATen's differs between its vectors and the rest of a row."""
    numbers = random(1, 77, seed=5)
    whole, ones = nan(1, 77), torch.ones(1, 77)
    native.gated(numbers, ones, whole)()
    for place in range(77):
        one = nan(1, 1)
        native.gated(numbers[:, place : place + 1].contiguous(), ones[:, :1].contiguous(), one)()
        assert torch.equal(one[0, 0], whole[0, place])


def test_what_is_not_finite_stays_so() -> None:
    numbers = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1e30, -1e30]])
    out = nan(1, 5)
    native.gated(numbers, torch.ones(1, 5), out)()
    assert out[0, 0].isnan() and out[0, 1] == torch.inf and out[0, 3] == 1e30
    found = numbers.clone()
    native.sigmoid(found)()
    assert found[0, 0].isnan()
    assert torch.equal(found[0, 1:], torch.tensor([1.0, 0.0, 1.0, 0.0])) or found[0, 2] < 1e-37


def test_sigmoid() -> None:
    x = torch.linspace(-90, 90, 10007)
    found = x.clone()
    native.sigmoid(found)()
    torch.testing.assert_close(found, x.double().sigmoid().float(), rtol=3e-7, atol=1e-37)


@pytest.mark.parametrize("segments", [1, 2, 8])
def test_slots_are_added_in_their_order(segments: int) -> None:
    x, weights, out = random(5, 3, segments, 11, seed=1), random(5, 3, seed=2), nan(5, 11)
    native.combine(x, weights, out)()
    parts = []
    for segment in range(segments):
        total = torch.zeros(5, 11)
        for slot in range(3):
            total = total + x[:, slot, segment] * weights[:, slot, None]
        parts.append(total)
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    assert torch.equal(out, parts[0])


@pytest.mark.parametrize("place", [-1, 4])
def test_a_row_to_add_to_that_is_not_there_is_an_error(place: int) -> None:
    x, weight, out = random(2, 8), random(5, 8), torch.zeros(4, 1, 5)
    added_to = torch.tensor([0, place]), torch.ones(2)
    thunk = native.product(x, weight, out, apart=True, added_to=added_to)
    with pytest.raises(IndexError, match="ordered_product"):
        thunk()
    assert not out.any()


def attention_arguments() -> dict[str, Tensor]:
    """Two sequences, of 6 and 2 tokens in blocks of 4, of which 3 and 1 are new; NaN where nobody
    may look."""
    caches = nan(2, 5, 4, 1, 8)
    tokens = random(2, 8, 1, 8)
    caches[:, 3], caches[:, 1, :2], caches[:, 4, :2] = tokens[:, :4], tokens[:, 4:6], tokens[:, 6:]
    return {
        "query": random(5, 2, 8),
        "keys": caches[0],
        "values": caches[1],
        "tables": torch.tensor([[3, 1], [4, -7]], dtype=torch.int32),
        "starts": torch.tensor([0, 3, 4], dtype=torch.int32),
        "lengths": torch.tensor([6, 2], dtype=torch.int32),
        "out": nan(5, 2, 8),
    }


def attention(given: dict[str, Tensor]) -> None:
    caches = given["keys"], given["values"]
    others = (given[name] for name in ("tables", "starts", "lengths"))
    native.attention(given["query"], caches, *others, 0.5, given["out"])()


def test_attention_reads_no_more_of_a_table_than_tokens_ask_for() -> None:
    given = attention_arguments()
    attention(given)
    assert given["out"][:4].isfinite().all() and given["out"][4].isnan().all()


BEYOND = [
    ("tables", 0, 5),
    ("tables", 1, -1),
    ("tables", 2, 1 << 30),
    ("lengths", 0, 9),
    ("lengths", 0, 2),
    ("lengths", 1, 0),
    ("lengths", 1, -5),
    ("starts", 0, 1),
    ("starts", 0, -1),
    ("starts", 1, 5),
    ("starts", 2, 6),
]


@pytest.mark.parametrize(("name", "place", "value"), BEYOND)
def test_what_attention_would_read_elsewhere_is_an_error(name: str, place: int, value: int) -> None:
    given = attention_arguments()
    given[name].view(-1)[place] = value
    with pytest.raises(IndexError, match="an index of ordered_attention is beyond what it counts"):
        attention(given)
    assert given["out"].isnan().all()


def test_a_sequence_without_queries_may_say_anything() -> None:
    """Padding of a prefill."""
    given = attention_arguments()
    given["starts"][2], given["lengths"][1], given["tables"][1, 0] = 3, 10_000, -1
    attention(given)
    assert given["out"][:3].isfinite().all() and given["out"][3:].isnan().all()


REFUSED: dict[str, dict[str, Any]] = {
    "another dtype": {"x": torch.zeros(2, 32, dtype=torch.float16)},
    "another k": {"weight": torch.zeros(3, 16)},
    "another n": {"out": torch.zeros(2, 4)},
    "another bias": {"bias": torch.zeros(2)},
    "non-contiguous": {"x": torch.zeros(2, 64)[:, ::2]},
    "three segments": {"segments": 3},
    "segments that are too short": {"segments": 4, "length": 7},
}


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
def test_a_product_refuses_what_it_would_read_wrong(changed: dict[str, Any]) -> None:
    given = {"x": torch.zeros(2, 32), "weight": torch.zeros(3, 32), "out": torch.zeros(2, 3)}
    with pytest.raises(PlanError):
        native.product(**{**given, **changed})


def test_without_a_compiler_nothing_serves_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMC_CPU_COMPILE", "0")
    required.cache_clear()
    native._library.cache_clear()
    try:
        with pytest.raises(GuardError, match="--deterministic"):
            product(torch.zeros(1, 8), torch.zeros(1, 8))
    finally:
        required.cache_clear()
        native._library.cache_clear()
