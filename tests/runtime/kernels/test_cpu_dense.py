"""Embedding, selection, norms, activation and linear against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu.few_rows import FEW_ROWS, prefers_few_rows
from tests.runtime.counting import FreshStorage
from tests.runtime.kernels.harness import FLOATS, close, nan, random, run


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    hidden = x.float()
    hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    return weight * hidden.to(x.dtype)


def norm_scratch(rows: int, width: int) -> dict[str, torch.Tensor]:
    return {"hidden": nan(rows, width), "square": nan(rows, width), "variance": nan(rows, 1)}


def test_the_counter_sees_an_allocation() -> None:
    with FreshStorage() as counter:
        F.linear(random(1, 8), random(4, 8))
    assert counter.fresh


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_embedding_and_select_rows_are_bitwise(dtype: torch.dtype, index: torch.dtype) -> None:
    weight, ids = random(11, 6, dtype=dtype), torch.tensor([10, 0, 0, 7], dtype=index)
    for name, arguments in (
        ("embedding", {"token_ids": ids, "weight": weight}),
        ("select_rows", {"rows": ids, "x": weight}),
    ):
        out = nan(4, 6, dtype=dtype)
        run(name, out=out, **arguments)
        assert torch.equal(out, weight[ids.long()])


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [1.0, 1e-4, 200.0])
def test_norms_are_bitwise(dtype: torch.dtype, rows: int, size: float) -> None:
    x = (random(rows, 48) * size).to(dtype)
    residual, weight = random(rows, 48, dtype=dtype, seed=2), random(48, dtype=dtype, seed=3)
    out, total = nan(rows, 48, dtype=dtype), nan(rows, 48, dtype=dtype)
    run("rms_norm", x=x, weight=weight, eps=1e-5, out=out, **norm_scratch(rows, 48))
    assert torch.equal(out, rms_norm(x, weight, 1e-5))
    run(
        "add_rms_norm",
        x=x,
        residual=residual,
        weight=weight,
        eps=1e-5,
        out=out,
        total=total,
        **norm_scratch(rows, 48),
    )
    assert torch.equal(total, residual + x)
    assert torch.equal(out, rms_norm(residual + x, weight, 1e-5))


def test_norm_of_zeros_is_zero() -> None:
    out = nan(2, 8)
    run("rms_norm", x=torch.zeros(2, 8), weight=torch.ones(8), eps=1e-5, out=out,
        **norm_scratch(2, 8))  # fmt: skip
    assert torch.equal(out, torch.zeros(2, 8))


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 7])
def test_activations_are_bitwise(dtype: torch.dtype, rows: int) -> None:
    x = random(rows, 40, dtype=dtype) * 4
    gate, up = x[:, :20], x[:, 20:]
    expected, out = F.silu(gate) * up, nan(rows, 20, dtype=dtype)
    run("swiglu", x=x, out=out)
    assert torch.equal(out, expected)
    gate, up = gate.contiguous(), up.contiguous()
    run("silu_mul", gate=gate, up=up, out=out)
    assert torch.equal(out, F.silu(gate) * up)


@pytest.mark.parametrize("dtype", FLOATS)
def test_add_in_place(dtype: torch.dtype) -> None:
    x, y = random(3, 8, dtype=dtype), random(3, 8, dtype=dtype, seed=2)
    out, expected = y.clone(), x + y
    find_binder("cpu.add")({"x": x, "y": out, "out": out})()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 2, 4, FEW_ROWS, FEW_ROWS + 1, 70])
@pytest.mark.parametrize(("size", "depth"), [(6, 8), (64, 48), (33, 17), (256, 96), (1, 64)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(dtype: torch.dtype, rows: int, size: int, depth: int, with_bias: bool) -> None:
    x, weight = random(rows, depth, dtype=dtype), random(size, depth, dtype=dtype, seed=2)
    weight = weight / depth**0.5
    bias = random(size, dtype=dtype, seed=3) if with_bias else None
    out = nan(rows, size, dtype=dtype)
    ours = prefers_few_rows(rows, weight)
    run("linear", by_torch=not ours, x=x, weight=weight, bias=bias, out=out)
    expected = x.double() @ weight.double().t()
    close(out, expected if bias is None else expected + bias.double())


def test_linear_over_the_rows_of_a_larger_weight() -> None:
    weight, x, out = random(32, 16), random(2, 16, seed=2), nan(2, 8)
    by_torch = not prefers_few_rows(2, weight)
    run("linear", by_torch=by_torch, x=x, weight=weight[8:16], bias=None, out=out)
    close(out, x @ weight[8:16].t())


@pytest.mark.parametrize(
    "change",
    [{"x": random(2, 7)}, {"out": nan(2, 5)}, {"weight": random(6, 8, dtype=torch.bfloat16)}],
)
def test_linear_refuses_what_does_not_fit(change: dict[str, torch.Tensor]) -> None:
    arguments = {"x": random(2, 8), "weight": random(6, 8), "bias": None, "out": nan(2, 6)}
    with pytest.raises(PlanError):
        find_binder("cpu.linear")({**arguments, **change})


def test_other_dtypes_are_refused_by_name() -> None:
    x = torch.zeros(2, 8, dtype=torch.float64)
    with pytest.raises(PlanError, match="float64"):
        find_binder("cpu.linear")({"x": x, "weight": x, "bias": None, "out": x})


def test_a_sum_into_a_part_of_a_summand_is_refused_as_torch_refuses_it() -> None:
    memory = random(24)
    x, out = memory[:16], memory[8:]
    with pytest.raises(RuntimeError, match="single memory location"):
        find_binder("cpu.add")({"x": x, "y": random(16), "out": out})()
