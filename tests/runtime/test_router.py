"""The torch router against the op's reference; bitwise, since both make the same torch calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops.moe import moe_gate
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder

EXPERTS, TOP_K = 12, 4


def bind(logits: Tensor, **change: Any) -> tuple[Any, Tensor, Tensor]:
    rows = logits.shape[0]
    arguments = {
        "logits": logits,
        "bias": torch.linspace(-1.2, 0.4, EXPERTS),
        "top_k": TOP_K,
        "groups": 1,
        "top_groups": 1,
        "fill": 0.0,
        "normalize": True,
        "eps": 1e-20,
        "scale": 1.0,
        "weights": torch.full((rows, TOP_K), math.nan),
        "ids": torch.full((rows, TOP_K), -1, dtype=torch.int32),
        **change,
    }
    thunk = find_binder("router.sigmoid_group_topk")(arguments)
    return thunk, arguments["weights"], arguments["ids"]


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (4, 4), (6, 1)])
@pytest.mark.parametrize("fill", [0.0, -math.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_equal_to_the_reference(
    groups: int, top_groups: int, fill: float, normalize: bool, scale: float, dtype: torch.dtype
) -> None:
    logits = torch.randn(9, EXPERTS, generator=torch.Generator().manual_seed(0))
    logits[1] = 0.0  # ties everywhere
    logits[2] = -200.0  # scores that underflow: the eps keeps 0 / 0 away
    ids = torch.full((9, TOP_K), -1, dtype=dtype)
    change = {"groups": groups, "top_groups": top_groups, "fill": fill, "normalize": normalize}
    thunk, weights, ids = bind(logits, scale=scale, ids=ids, **change)
    bias, identity = torch.linspace(-1.2, 0.4, EXPERTS), torch.eye(EXPERTS)
    expected = moe_gate(
        logits, identity, bias, TOP_K, groups, top_groups, fill, normalize, 1e-20, scale
    )
    for _ in range(2):  # a second step must not see the first
        assert thunk() is None
        assert torch.equal(weights, expected[0]) and torch.equal(ids.long(), expected[1])


def test_a_step_sees_new_logits_in_the_same_memory() -> None:
    logits = torch.zeros(3, EXPERTS)
    thunk, _, ids = bind(logits, bias=torch.zeros(EXPERTS), groups=4, top_groups=2)
    for best in (0, 7, 11):
        logits.zero_()[:, best] = 5.0
        thunk()
        assert bool((ids == best).any(-1).all())


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 5, "top_groups": 2},
        {"groups": 12, "top_groups": 2},
        {"groups": 2, "top_groups": 3},
        {"groups": 0, "top_groups": 0},
        {"top_k": 5},
        {"bias": torch.zeros(EXPERTS - 1)},
        {"ids": torch.zeros(2, TOP_K, dtype=torch.int32)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="router's shapes do not fit"):
        bind(torch.zeros(3, EXPERTS), **change)
