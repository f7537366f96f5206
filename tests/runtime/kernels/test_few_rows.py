"""Our products of few rows, with every instruction set of this processor: sums, rounding, and who
takes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu import decode_library, few_rows
from glmc_runtime.kernels.cpu.few_rows import (
    FEW_ROWS,
    FEW_ROWS_BESIDE_TILES,
    few_rows_experts,
    few_rows_product,
    prefers_few_rows,
)
from tests.runtime.kernels.harness import nan, random
from tests.runtime.kernels.instruction_sets import each_instruction_set as each_instruction_set

BFLOAT16 = torch.bfloat16
DTYPES = (BFLOAT16, torch.float32)
HALF_ULP = {BFLOAT16: 2.0**-8, torch.float32: 2.0**-24}  # at most, relative to the number


pytestmark = pytest.mark.usefixtures("each_instruction_set")


def narrowed(*shape: int, seed: int, dtype: torch.dtype = BFLOAT16) -> Tensor:
    return random(*shape, dtype=dtype, seed=seed)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = nan(x.shape[0], weight.shape[0], dtype=x.dtype)
    few_rows_product(x, weight, bias, out)()
    return out


def require_right(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Each entry is its sum in float32, rounded once."""
    exact = x.double() @ weight.double().t()
    scale = x.double().abs() @ weight.double().abs().t()
    if bias is not None:
        exact, scale = exact + bias.double(), scale + bias.double().abs()
    most = HALF_ULP[x.dtype] * exact.abs() + 2.0**-22 * math.sqrt(x.shape[1]) * scale
    assert bool(((out.double() - exact).abs() <= most).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_sums(dtype: torch.dtype, biased: bool) -> None:
    """Every remainder of rows, of rows of the weight and of k."""
    for rows in (1, 2, 3, 4, 5, 7, 8, 13, 64, 65, 131):
        for size, depth in ((1, 16), (7, 48), (16, 32), (37, 2048), (100, 176), (13, 1), (12, 77)):
            x = narrowed(rows, depth, seed=1, dtype=dtype)
            weight = narrowed(size, depth, seed=2, dtype=dtype)
            bias = narrowed(size, seed=3, dtype=dtype) if biased else None
            require_right(product(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_sum(dtype: torch.dtype) -> None:
    bias = narrowed(5, seed=3, dtype=dtype)
    out = product(narrowed(2, 0, seed=1, dtype=dtype), narrowed(5, 0, seed=2, dtype=dtype), bias)
    assert torch.equal(out, bias.expand(2, 5))


def test_no_rows() -> None:
    assert product(narrowed(0, 32, seed=1), narrowed(5, 32, seed=2)).shape == (0, 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_beside_any_other(dtype: torch.dtype) -> None:
    x, weight = narrowed(71, 500, seed=1, dtype=dtype), narrowed(45, 500, seed=2, dtype=dtype)
    alone = torch.cat([product(row[None], weight) for row in x])
    for rows in (2, 3, 4, 6, 71):
        assert torch.equal(product(x[:rows], weight), alone[:rows])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("size", "depth"), [(301, 512), (1501, 520), (5, 8192), (13, 4096)])
def test_any_number_of_threads_gives_the_same_bits(
    size: int, depth: int, rows: int, dtype: torch.dtype
) -> None:
    """Also where some of them have no block of their own, and where several stretches are left."""
    x, weight = (narrowed(n, depth, seed=n, dtype=dtype) for n in (rows, size))
    bias = narrowed(size, seed=3, dtype=dtype)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(product(x, weight, bias))
    require_right(found[0], x, weight, bias)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_of_experts_are_products_with_any_number_of_threads(
    tokens: int, dtype: torch.dtype
) -> None:
    """Threads take stretches that go from one expert to the next, and end within one."""
    hidden, width, count, top_k = 400, 150, 6, 3
    x = narrowed(tokens, hidden, seed=1, dtype=dtype)
    gate_up = narrowed(count, 2 * width, hidden, seed=2, dtype=dtype)
    down = narrowed(count, hidden, width, seed=3, dtype=dtype)
    ids = torch.tensor([[4, 1, 3], [3, 0, 5], [1, 3, 0]])[:tokens]
    merged, results = (nan(tokens * top_k, n, dtype=dtype) for n in (2 * width, hidden))
    arguments = {
        **{"x": x, "ids": ids, "gate_up": gate_up, "down": down},
        **{"merged": merged, "results": results, "weights": random(tokens, top_k, seed=4)},
    }
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        out = nan(tokens, hidden, dtype=dtype)
        merged.fill_(torch.nan)
        few_rows_experts({**arguments, "out": out}, None)()
        for slot, expert in enumerate(ids.flatten().tolist()):
            row = slot // top_k
            assert torch.equal(merged[slot : slot + 1], product(x[row : row + 1], gate_up[expert]))
        found.append(torch.cat([results, out]))
    assert not found[0].isnan().any()
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_ties_go_to_the_even_neighbour() -> None:
    """A sum in the middle between two numbers of bfloat16: 1 + 2^-8, and one step above it."""
    x, weight = torch.zeros(1, 16, dtype=BFLOAT16), torch.zeros(3, 16, dtype=BFLOAT16)
    x[0, :2] = torch.tensor([1.0, 2.0**-8])
    weight[:, :2] = torch.tensor([[1.0, 1.0], [1.0 + 2.0**-7, 1.0], [-1.0, -1.0]])
    assert product(x, weight)[0].tolist() == [1.0, 1.0 + 2.0**-6, -1.0]


def test_what_is_not_finite() -> None:
    x, weight = narrowed(2, 32, seed=1), narrowed(5, 32, seed=2)
    x[1, 7], weight[2, 3] = torch.inf, torch.nan
    out = product(x, weight)
    assert out[:, 2].isnan().all() and not out[0, [0, 1, 3, 4]].isnan().any()
    assert torch.equal(out[1, [0, 1, 3, 4]], torch.inf * weight[[0, 1, 3, 4], 7].sign())
    huge = torch.full((1, 16), 3e38, dtype=BFLOAT16)
    assert product(huge, huge).item() == torch.inf


def test_every_entry_has_a_place_of_its_own() -> None:
    """Each element of k at its place, of those at even and at odd ones."""
    x, weight = torch.eye(48, dtype=BFLOAT16), narrowed(21, 48, seed=2)
    assert torch.equal(product(x, weight), weight.t())


REFUSED: dict[str, dict[str, Any]] = {
    "another dtype": {"x": torch.zeros(2, 32)},
    "no dtype of ours": {
        name: torch.zeros(shape, dtype=torch.float16)
        for name, shape in (("x", (2, 32)), ("weight", (3, 32)), ("out", (2, 3)))
    },
    "non-contiguous": {"x": torch.zeros(2, 64, dtype=BFLOAT16)[:, ::2]},
    "another k": {"weight": torch.zeros(3, 16, dtype=BFLOAT16)},
    "another n": {"out": torch.zeros(2, 4, dtype=BFLOAT16)},
    "another bias": {"bias": torch.zeros(2, dtype=BFLOAT16)},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    given = {
        "x": torch.zeros(2, 32, dtype=BFLOAT16),
        "weight": torch.zeros(3, 32, dtype=BFLOAT16),
        "bias": None,
        "out": torch.zeros(2, 3, dtype=BFLOAT16),
    }
    with pytest.raises(PlanError, match="few rows"):
        few_rows_product(**{**given, **change})


def test_memory_that_a_storage_is_given_later_is_read() -> None:
    x, weight, out = torch.ones(1, 16), torch.ones(2, 16), nan(1, 2, dtype=BFLOAT16)
    x, weight = x.to(BFLOAT16), weight.to(BFLOAT16)
    thunk = few_rows_product(x, weight, None, out)
    thunk()
    weight.share_memory_()
    weight.fill_(2.0)
    thunk()
    assert out.tolist() == [[32.0, 32.0]]


def test_who_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(4, 32, dtype=BFLOAT16)
    monkeypatch.setattr(few_rows, "multiplies", lambda dtype: True)
    monkeypatch.setattr(few_rows, "multiplies_tiles", lambda: False)
    assert prefers_few_rows(FEW_ROWS, weight) and prefers_few_rows(FEW_ROWS, weight.float())
    assert not prefers_few_rows(FEW_ROWS + 1, weight), "oneDNN has products of its own"
    monkeypatch.setattr(few_rows, "multiplies", lambda dtype: False)
    assert prefers_few_rows(FEW_ROWS + 1, weight)
    assert not prefers_few_rows(1, weight.half())
    monkeypatch.setattr(decode_library, "_library", lambda: None)
    assert not prefers_few_rows(1, weight), "nothing was compiled"


def test_beside_tiles_torch_takes_bfloat16_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(4, 32, dtype=BFLOAT16)
    monkeypatch.setattr(few_rows, "multiplies", lambda dtype: True)
    monkeypatch.setattr(few_rows, "multiplies_tiles", lambda: True)
    assert prefers_few_rows(FEW_ROWS_BESIDE_TILES, weight)
    assert not prefers_few_rows(FEW_ROWS_BESIDE_TILES + 1, weight)
    assert prefers_few_rows(FEW_ROWS, weight.float()), "tiles multiply no float32"


@pytest.mark.parametrize("rows", [1, 5])
def test_the_linear_layer_takes_it(rows: int) -> None:
    x, weight, bias = narrowed(1, rows, 64, seed=1), narrowed(9, 64, seed=2), narrowed(9, seed=3)
    for added in (None, bias):
        out = nan(1, rows, 9, dtype=BFLOAT16)
        find_binder("cpu.linear")({"x": x, "weight": weight, "bias": added, "out": out})()
        assert torch.equal(out[0], product(x[0], weight, added))
