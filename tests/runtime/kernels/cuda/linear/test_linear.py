"""Every variant of the linear layer against float64, on the device or in Triton's interpreter."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.linear.linear import linear, linear_swiglu
from tests.runtime.kernels.harness import close, nan, random
from tests.support.thinned import crossed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def variant(
    name: str, block_n: int, block_k: int, split: int = 1, stages: int = 2
) -> dict[str, Any]:
    return {
        "variant": name,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "SPLIT_K": split,
        "num_warps": 4,
        "num_stages": stages,
    }


VARIANTS = [
    *(variant("gemv", 8, 32, split) for split in (1, 2, 3)),
    *(variant("skinny", 16, 32, split) for split in (1, 2, 3)),
    {"variant": "cublas"},
    None,
]
IDS = [f"{w['variant']}-{w.get('SPLIT_K', 1)}" if w else "default" for w in VARIANTS]


def operands(
    rows: int, n: int, k: int, dtype: torch.dtype, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = random(rows, k, dtype=dtype, seed=seed)
    weight = (random(n, k, seed=seed + 1) / k**0.5).to(dtype)
    return x.to(DEVICE), weight.to(DEVICE), random(n, dtype=dtype, seed=seed + 2).to(DEVICE)


def counters_are_zero() -> bool:
    return not workspace.arrival_counters(DEVICE, 64).any()


SHAPES = ((1, 24, 128, False), (3, 37, 75, True), (4, 16, 96, True), (1, 8, 20, False))
GATED = ((1, 12, 128), (3, 21, 75), (2, 4, 20))
FLOATS = (torch.float32, torch.bfloat16)
ROWS = (5, 17, 40, 65)


# A dtype only changes how operands are read: each shape has one of them.
@pytest.mark.parametrize("configuration", VARIANTS, ids=IDS)
@pytest.mark.parametrize(
    ("shape", "dtype"), crossed(SHAPES, FLOATS, quick=list(zip(SHAPES, FLOATS * 2, strict=True)))
)
def test_linear(
    configuration: dict[str, Any] | None,
    shape: tuple[int, int, int, bool],
    dtype: torch.dtype,
) -> None:
    rows, n, k, with_bias = shape
    x, weight, bias = operands(rows, n, k, dtype)
    out = nan(rows, n, dtype=dtype).to(DEVICE)
    arguments = {"x": x, "weight": weight, "bias": bias if with_bias else None, "out": out}
    thunk = linear({**arguments, "configuration": configuration})
    for seed in (1, 5):
        x.copy_(random(rows, k, dtype=dtype, seed=seed))
        thunk()
        expected = x.double() @ weight.double().t()
        close(out, expected + bias.double() if with_bias else expected)
    assert counters_are_zero()


@pytest.mark.parametrize(
    ("rows", "dtype"),
    crossed(
        *(ROWS, (*FLOATS, torch.float16)),
        quick=list(zip(ROWS, (*FLOATS, torch.float16, torch.float32), strict=True)),
    ),
)
def test_more_rows(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = operands(rows, 40, 96, dtype)
    for configuration in (None, variant("skinny", 32, 32, 2)):
        if configuration and rows > 64:
            continue
        out = nan(rows, 40, dtype=dtype).to(DEVICE)
        linear(
            {"x": x, "weight": weight, "bias": bias, "out": out, "configuration": configuration}
        )()
        close(out, x.double() @ weight.double().t() + bias.double())


@pytest.mark.parametrize("configuration", VARIANTS, ids=IDS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    crossed(GATED, FLOATS, quick=list(zip(GATED, (*FLOATS[::-1], FLOATS[1]), strict=True))),
)
def test_linear_swiglu(
    configuration: dict[str, Any] | None, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    rows, width, k = shape
    x, weight, _ = operands(rows, 2 * width, k, dtype)
    out, merged = (nan(rows, size, dtype=dtype).to(DEVICE) for size in (width, 2 * width))
    linear_swiglu(
        {"x": x, "weight": weight, "merged": merged, "out": out, "configuration": configuration}
    )()
    product = (x.double() @ weight.double().t()).to(dtype)
    close(out, F.silu(product[:, :width]) * product[:, width:])
    assert counters_are_zero()


@pytest.mark.parametrize("configuration", VARIANTS, ids=IDS)
def test_the_same_inputs_give_the_same_bits(configuration: dict[str, Any] | None) -> None:
    x, weight, bias = operands(2, 37, 75, torch.bfloat16)
    results = []
    for _ in range(2):
        workspace.floats(DEVICE, 1 << 14).fill_(torch.nan)
        out = nan(2, 37, dtype=torch.bfloat16).to(DEVICE)
        linear(
            {"x": x, "weight": weight, "bias": bias, "out": out, "configuration": configuration}
        )()
        results.append(out)
    assert torch.equal(*results)


@pytest.mark.parametrize("k", [20, 64, 75, 128, 1000, 4096])
@pytest.mark.parametrize("split", [1, 3, 4])
@pytest.mark.parametrize("ahead", [{}, {"PREFETCH": 0}, {"PREFETCH": 100_000}])
def test_the_prefetch_stays_within_each_part(k: int, split: int, ahead: dict[str, int]) -> None:
    x, weight, _ = operands(1, 8, k, torch.bfloat16)
    out = nan(1, 8, dtype=torch.bfloat16).to(DEVICE)
    thunk = linear(
        {
            "x": x,
            "weight": weight,
            "out": out,
            "configuration": variant("gemv", 8, 32, split) | ahead,
        }
    )
    assert isinstance(thunk, partial)
    length = thunk.keywords["PREFETCH"]
    part = -(-k // (32 * split)) * 32
    assert length == 0 or (split - 1) * part + length <= k
    assert length & (length - 1) == 0 and length % thunk.keywords["LINE"] == 0
    assert length <= 1024 or ahead


def test_leading_dimensions_and_slices_of_a_weight() -> None:
    x, weight, _ = operands(2, 32, 64, torch.float32)
    out = nan(1, 2, 8).to(DEVICE)
    linear({"x": x.view(1, 2, 64), "weight": weight[8:16], "out": out})()
    close(out.view(2, 8), x @ weight[8:16].t())


def test_nothing_is_written_beside_the_output() -> None:
    x, weight, _ = operands(3, 37, 75, torch.float32)
    around = torch.full((5, 37), 7.0, device=DEVICE)
    for configuration in (variant("gemv", 8, 32, 2), variant("skinny", 16, 32, 2)):
        linear({"x": x, "weight": weight, "out": around[1:4], "configuration": configuration})()
        assert (around[0] == 7).all() and (around[4] == 7).all()


@pytest.mark.parametrize(
    "change",
    [
        {"x": random(2, 7)},
        {"out": nan(2, 5)},
        {"weight": random(6, 8, dtype=torch.bfloat16)},
        {"bias": random(5)},
        {"configuration": variant("gemv", 8, 32), "x": random(5, 8), "out": nan(5, 6)},
        {"configuration": {"variant": "guess"}},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    arguments = {"x": random(2, 8), "weight": random(6, 8), "bias": None, "out": nan(2, 6)}
    with pytest.raises(PlanError):
        linear({**arguments, **change})
