"""A query whose keys are all hidden gets what eager code gives it: NaN of a softmax, zeros of the
safe one and of torch's own attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dynamo.compiled import fusions, watched
from tests.support.interpreted import quick_interpreter
from tests.support.thinned import crossed
from tests.zoo.masked import SPELLINGS, Masked, by_head, operands

TARGETS, TOKENS = ("cpu", "cuda", "xpu"), (1, 5)
# A spelling is recognised alike for all targets; kernels differ by what such a row gets.
QUICK = {(name, 5, "cpu") for name in SPELLINGS}
QUICK |= {(name, 5, target) for name in ("sdpa", "softmax") for target in TARGETS}
LONG = {(name, 1, target) for name in ("sdpa", "softmax") for target in TARGETS}


@pytest.fixture(autouse=True, scope="module")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


def both(name: str, target: str, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(eager, compiled); the attention must have been fused."""
    model = Masked(name).eval()
    options: dict[str, Any] = {"target": target}
    with torch.no_grad(), watched() as graphs:
        found = torch.compile(model, backend="kunlun", fullgraph=True, options=options)(*given)
        expected = model(*given)
    assert fusions(graphs[0])["attention"] == 1
    return expected, found


@pytest.mark.parametrize(
    ("name", "tokens", "target"), crossed(SPELLINGS, TOKENS, TARGETS, quick=QUICK, long=LONG)
)
def test_as_in_eager_code(name: str, tokens: int, target: str) -> None:
    expected, found = both(name, target, operands(tokens))
    assert bool(expected[1, :, -1].isnan().all()) is not SPELLINGS[name].safe
    assert not expected[0].isnan().any() and (tokens == 1 or not expected[1, :, 0].isnan().any())
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["sdpa", "softmax"])
def test_the_smallest_number_in_place_of_infinity_gives_the_mean(name: str, target: str) -> None:
    q, k, v, mask = operands(3)
    mask = mask.clamp(min=torch.finfo(mask.dtype).min)
    expected, found = both(name, target, (q, k, v, mask))
    torch.testing.assert_close(expected[1, :, -1], by_head(v)[1].mean(1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["sdpa", "softmax", "safe_softmax"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_in_bfloat16(name: str, tokens: int) -> None:
    expected, found = both(name, "cpu", operands(tokens, torch.bfloat16))
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=2e-2, atol=2e-2)
