"""The likeliest token: ties, chunks, and logits that are not finite."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda import greedy as module
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.greedy import greedy
from tests.runtime.kernels.harness import FLOATS, random

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tokens_of(logits: torch.Tensor) -> list[int]:
    out = torch.full((logits.shape[0],), -7, device=DEVICE)
    thunk = greedy({"logits": logits.to(DEVICE), "out": out})
    thunk()
    first = out.tolist()
    thunk()
    assert out.tolist() == first
    assert not workspace.arrival_counters(DEVICE, logits.shape[0]).any()
    return first


@pytest.fixture(params=[16, 4096])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_BLOCK", request.param)
    return int(request.param)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 64), (3, 101), (9, 7)])
def test_greedy(dtype: torch.dtype, rows: int, vocabulary: int, block: int) -> None:
    logits = random(rows, vocabulary, dtype=dtype)
    expected = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert tokens_of(logits) == expected


def test_of_equals_the_lowest_id(block: int) -> None:
    logits = torch.zeros(4, 50)
    logits[1, [49, 17, 33]] = 2.0
    logits[2, :] = -3.0
    logits[3, :40] = -torch.inf
    assert tokens_of(logits) == [0, 17, 0, 40]


def test_what_is_not_finite_gives_no_token(block: int) -> None:
    logits = random(6, 50)
    logits[0, 3] = torch.nan
    logits[1, 47] = torch.inf
    logits[2, :] = -torch.inf
    logits[3, :] = torch.nan
    logits[4, 20] = -torch.inf
    assert tokens_of(logits) == [-1] * 4 + [int(row.argmax()) for row in logits[4:]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError):
        greedy({"logits": random(2, 8), "out": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(PlanError):
        greedy({"logits": random(2, 8), "out": torch.zeros(2, dtype=torch.int32)})
