"""The norms against eager code."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda.launch import interpreted
from glmc_runtime.kernels.cuda.norms import add_rms_norm, norm_add_rms_norm, rms_norm
from tests.runtime.kernels.harness import FLOATS, close, nan, random

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(1, 48), (5, 64), (3, 33)]


def expected_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    hidden = x.float()
    hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    return weight * hidden.to(x.dtype)


def inputs(
    rows: int, width: int, dtype: torch.dtype, size: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        (random(rows, width) * size).to(dtype).to(DEVICE),
        random(rows, width, dtype=dtype, seed=2).to(DEVICE),
        random(width, dtype=dtype, seed=3).to(DEVICE),
        random(width, dtype=dtype, seed=4).to(DEVICE),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("size", [1.0, 1e-4, 200.0])
def test_norms(dtype: torch.dtype, rows: int, width: int, size: float) -> None:
    x, residual, weight, other = inputs(rows, width, dtype, size)
    out, total = (nan(rows, width, dtype=dtype).to(DEVICE) for _ in range(2))
    rms_norm({"x": x, "weight": weight, "eps": 1e-5, "out": out})()
    close(out, expected_norm(x, weight, 1e-5))
    arguments = {"x": x, "residual": residual, "weight": weight, "eps": 1e-5, "out": out}
    add_rms_norm({**arguments, "total": total})()
    if dtype == torch.bfloat16 and interpreted():  # which cuts where it should round
        close(total, residual + x)
    else:
        assert torch.equal(total, residual + x)
    close(out, expected_norm(total, weight, 1e-5))
    out.fill_(torch.nan)
    norm_add_rms_norm({**arguments, "total": total, "norm_weight": other, "norm_eps": 1e-6})()
    close(total, residual + expected_norm(x, other, 1e-6))
    close(out, expected_norm(total, weight, 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_may_lie_where_inputs_do(dtype: torch.dtype) -> None:
    x, residual, weight, other = inputs(3, 48, dtype, 1.0)
    out, total = (nan(3, 48, dtype=dtype).to(DEVICE) for _ in range(2))
    rms_norm({"x": x, "weight": weight, "eps": 1e-5, "out": out})()
    again = x.clone()
    rms_norm({"x": again, "weight": weight, "eps": 1e-5, "out": again})()
    assert torch.equal(again, out)
    for binder, more in (
        (add_rms_norm, {}),
        (norm_add_rms_norm, {"norm_weight": other, "norm_eps": 1e-6}),
    ):
        arguments = {"weight": weight, "eps": 1e-5, **more}
        binder({"x": x, "residual": residual, "out": out, "total": total, **arguments})()
        for turned in (False, True):
            first, second = x.clone(), residual.clone()
            ends = {"out": second, "total": first} if turned else {"out": first, "total": second}
            binder({"x": first, "residual": second, **ends, **arguments})()
            assert torch.equal(ends["out"], out) and torch.equal(ends["total"], total)


def test_norm_of_zeros_is_zero_and_of_leading_dimensions() -> None:
    x, weight = torch.zeros(2, 3, 8, device=DEVICE), torch.ones(8, device=DEVICE)
    out = nan(2, 3, 8).to(DEVICE)
    rms_norm({"x": x, "weight": weight, "eps": 1e-5, "out": out})()
    assert torch.equal(out, x)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": random(7)},
        {"out": nan(2, 7)},
        {"x": random(2, 8).double()},
        {"weight": random(8, dtype=torch.bfloat16)},
        {"residual": random(2, 8, dtype=torch.bfloat16)},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor]) -> None:
    fits = {"weight": random(8), "out": nan(2, 8), "total": nan(2, 8), "eps": 1e-5}
    with pytest.raises(PlanError):
        add_rms_norm({**fits, "x": random(2, 8), "residual": random(2, 8), **change})
