"""An ordered face of the emulator: the same numbers as the other, within rounding, and bits that do
not follow the rest of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from glmc_kunlun_emulator import load, sums
from glmc_runtime.errors import GuardError
from glmc_runtime.kernels.vendor import find_vendor
from tests.runtime.kernels.harness import random

X, WEIGHT = random(9, 70, seed=1), random(33, 70, seed=2)
OPERATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "product": lambda x: sums.product(x, WEIGHT),
    "norm": lambda x: sums.normalised(x, 1e-5),
    "gate": lambda x: sums.silu_times(x[:, :35], x[:, 35:]),
    "sigmoid": sums.sigmoid,
    "slots": lambda x: sums.of_slots(x[:, :8]),
    "weighted": lambda x: sums.weighted(x.view(-1, 7, 10), x[:, :7]),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_numbers(operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    usual = operation(X)
    with sums.adding(True):
        ordered = operation(X)
        alone = torch.cat([operation(row[None]) for row in X])
    torch.testing.assert_close(ordered, usual, rtol=2e-5, atol=2e-5)
    assert torch.equal(ordered, alone)
    assert not sums.is_ordered()


def test_a_face_is_ordered_for_its_calls_alone() -> None:
    out, x, weight = torch.empty(2, 3), random(2, 8), random(3, 8)
    seen: list[bool] = []
    for ordered in (False, True):
        vendor = load("P-C", ordered=ordered)
        vendor._run(lambda: seen.append(sums.is_ordered()), {})
        vendor.kunlun_ops.matmul(x=x, w=weight, out=out, w_trans=True)
        torch.testing.assert_close(out, x @ weight.t())
    assert seen == [False, True] and not sums.is_ordered()


def test_a_card_makes_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = load("P-A").kunlun_ops
    monkeypatch.setitem(__import__("sys").modules, "kunlun_ops", vendor)
    with pytest.raises(GuardError, match="is not known"):
        find_vendor("P-A", None, ordered=True)
    assert find_vendor("P-A", True, ordered=True).emulated
