"""Products of float32 do not follow the program's switch for TF32, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from glmc_runtime.kernels.cuda import exact as module
from glmc_runtime.kernels.cuda import linear, moe_gate
from glmc_runtime.kernels.cuda.exact import exact_float32
from tests.runtime.kernels.harness import nan, random


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def allowed() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32)


def test_the_switch_is_off_inside_and_as_before_behind(precision: str) -> None:
    assert allowed() is (precision != "highest")
    with exact_float32():
        assert not allowed()
    assert allowed() is (precision != "highest")
    with pytest.raises(ZeroDivisionError), exact_float32():
        raise ZeroDivisionError
    assert allowed() is (precision != "highest")
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the one switch"
)
def test_the_newer_switch() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with exact_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert not allowed()  # raises where both switches disagree
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_of_the_library(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = []
    monkeypatch.setattr(linear, "exact", lambda thunk: wrapped.append(thunk) or thunk)
    x, weight = random(3, 8, dtype=dtype), random(6, 8, dtype=dtype)
    given = {"x": x, "weight": weight, "out": nan(3, 6, dtype=dtype)}
    linear.linear({**given, "configuration": {"way": "cublas"}})
    assert len(wrapped) == (dtype == torch.float32)


def test_the_router_of_the_library() -> None:
    assert moe_gate.exact is module.exact
