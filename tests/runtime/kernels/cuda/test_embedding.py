"""Rows by token id, on the device or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import embedding as module
from glmc_runtime.kernels.cuda.embedding import embedding
from tests.runtime.kernels.harness import FLOATS, nan, random

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ids_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("block", [16, 1024])
@pytest.mark.parametrize("width", [40, 64])
def test_rows_by_id(
    dtype: torch.dtype,
    ids_dtype: torch.dtype,
    block: int,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    weight = random(9, width, dtype=dtype).to(DEVICE)
    ids = torch.tensor([0, 8, 3, 3, 5], dtype=ids_dtype, device=DEVICE)
    around = nan(7, width, dtype=dtype).to(DEVICE)
    thunk = embedding({"ids": ids, "weight": weight, "out": around[1:6]})
    thunk()
    assert torch.equal(around[1:6], weight[ids.long()])
    assert around[0].isnan().all() and around[6].isnan().all()
    ids.copy_(torch.tensor([7, 6, 2, 1, 0]))
    thunk()
    assert torch.equal(around[1:6], weight[ids.long()])


def test_leading_dimensions() -> None:
    weight, ids = random(6, 8).to(DEVICE), torch.tensor([[1, 2], [5, 0]], device=DEVICE)
    out = nan(2, 2, 8).to(DEVICE)
    embedding({"ids": ids, "weight": weight, "out": out})()
    assert torch.equal(out, weight[ids])


@pytest.mark.parametrize("outside", [-1, 6, 1 << 40])
def test_an_id_outside_of_the_vocabulary_gives_nan(outside: int) -> None:
    weight, ids = random(6, 8).to(DEVICE), torch.tensor([2, outside], device=DEVICE)
    out = random(2, 8).to(DEVICE)
    embedding({"ids": ids, "weight": weight, "out": out})()
    assert torch.equal(out[0], weight[2]) and out[1].isnan().all()


@pytest.mark.parametrize(
    "change",
    [
        {"out": nan(3, 8)},
        {"out": nan(2, 8).half()},
        {"ids": torch.zeros(2)},
        {"ids": torch.zeros(4, dtype=torch.int64)[::2]},
        {"weight": random(8, 6).t()},
        {"weight": random(6, 8).double(), "out": nan(2, 8).double()},
        {"weight": random(8)},
        {"out": nan(2, 8).to("meta")},
    ],
    ids=["rows", "dtype", "ids", "gaps", "strides", "double", "vector", "elsewhere"],
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor]) -> None:
    ids = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(PlanError):
        embedding({"ids": ids, "weight": random(6, 8), "out": nan(2, 8), **change})
