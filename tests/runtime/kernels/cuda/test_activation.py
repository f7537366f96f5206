"""SwiGLU against eager code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import activation
from glmc_runtime.kernels.cuda.activation import silu_mul, swiglu
from tests.runtime.kernels.harness import FLOATS, close, nan, random

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("block", [16, 1024])
def test_activations(
    dtype: torch.dtype, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "_BLOCK", block)
    x = (random(rows, 40, dtype=dtype) * 4).to(DEVICE)
    gate, up = x[:, :20], x[:, 20:]
    expected, out = F.silu(gate) * up, nan(rows, 20, dtype=dtype).to(DEVICE)
    swiglu({"x": x, "out": out})()
    close(out, expected)
    gate, up = gate.contiguous(), up.contiguous()
    out.fill_(torch.nan)
    silu_mul({"gate": gate, "up": up, "out": out})()
    close(out, expected)
    silu_mul({"gate": gate, "up": up, "out": gate})()
    assert torch.equal(gate, out)


def test_far_out_nothing_overflows() -> None:
    x = torch.tensor([[-88.0, 88.0, 0.0, 1.0, 2.0, 3.0]], device=DEVICE)
    out = nan(1, 3).to(DEVICE)
    swiglu({"x": x, "out": out})()
    close(out, torch.tensor([[0.0, 176.0, 0.0]], device=DEVICE))


@pytest.mark.parametrize(
    "change", [{"out": nan(2, 5)}, {"out": nan(2, 4).half()}, {"x": random(2, 8).double()}]
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(PlanError):
        swiglu({"x": random(2, 8), "out": nan(2, 4), **change})
