"""rms_norm: spellings, what must be refused, and bitwise equal results."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

from glmc.passes import rms_norm
from tests.support.structure import structure
from tests.support.traced import Traced, conditions, trace
from tests.zoo.norm import FLOAT32_ONLY, SPELLINGS, TWISTS, RmsNorm

torch.set_num_threads(1)
HIDDEN = 24


def traced(kind: type[RmsNorm], dtype: torch.dtype) -> Traced:
    torch.manual_seed(0)
    return trace(kind(HIDDEN).to(dtype), torch.randn(2, 5, HIDDEN).to(dtype))


@cache
def first_spelling(dtype: torch.dtype) -> list[str]:
    """What the stock classes' norm becomes."""
    program = traced(RmsNorm, dtype)
    assert len(program.apply(rms_norm.PASS).matches) == 1
    return structure(program.program)


CASES = [(kind, torch.float32) for kind in SPELLINGS]
CASES += [(kind, torch.bfloat16) for kind in SPELLINGS if kind not in FLOAT32_ONLY]


@pytest.mark.parametrize(
    ("kind", "dtype"), CASES, ids=[f"{kind.__name__}-{dtype}" for kind, dtype in CASES]
)
def test_fires(kind: type[RmsNorm], dtype: torch.dtype) -> None:
    program = traced(kind, dtype)
    inputs = [
        torch.randn(1, 1, HIDDEN),
        torch.randn(3, 50, HIDDEN),
        torch.zeros(1, 3, HIDDEN),
        1e4 * torch.randn(1, 3, HIDDEN),
        1e-6 * torch.randn(1, 3, HIDDEN),
    ]
    inputs = [x.to(dtype) for x in inputs]
    before = [program(x)[0] for x in inputs]
    result = program.apply(rms_norm.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    assert structure(program.program) == first_spelling(dtype)
    assert not program.nodes("aten.rsqrt", "aten.mul", "aten._to_copy", "aten.rms_norm")
    for x, old in zip(inputs, before, strict=True):
        assert torch.equal(program(x)[0], old)
        assert torch.equal(program(x)[0], program.eager(x)[0])
    text = program.text()
    again = program.apply(rms_norm.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


def test_eps_is_read() -> None:
    program = traced(type("SmallEps", (RmsNorm,), {"eps": 1e-6}), torch.float32)
    program.apply(rms_norm.PASS)
    (node,) = program.nodes("glmc.rms_norm")
    assert node.args[2] == 1e-6


@pytest.mark.parametrize("kind", TWISTS, ids=lambda kind: kind.__name__)
def test_refuses(kind: type[RmsNorm]) -> None:
    program = traced(kind, torch.bfloat16)
    text = program.text()
    result = program.apply(rms_norm.PASS)
    assert not result.matches
    (reason,) = conditions(result)
    assert TWISTS[kind] in reason
    assert program.text() == text


def test_mixed_dtypes_are_refused() -> None:
    """A float32 weight on a bfloat16 value gives float32: no GLM class does that."""

    class Wide(RmsNorm):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.inner = nn.Linear(width, width, bias=False, dtype=torch.bfloat16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.inner(x))

    torch.manual_seed(0)
    program = trace(Wide(HIDDEN), torch.randn(2, 5, HIDDEN).bfloat16())
    (reason,) = conditions(program.apply(rms_norm.PASS))
    assert reason == "weight and input must have the same dtype"


def test_an_rsqrt_elsewhere_is_not_worth_telling() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs().rsqrt() + (x + 1e-5).rsqrt()

    result = trace(Root(), torch.randn(3, HIDDEN)).apply(rms_norm.PASS)
    assert (result.matches, result.near_misses) == ([], [])


ROOTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "of a sum": (lambda x: (x.square().sum(-1, True) + 1e-5).rsqrt(), "a mean plus a number"),
    "of a mean": (lambda x: x.square().mean(-1, True).rsqrt(), "a mean plus a number"),
    "scaled": (lambda x: (x.square().mean(-1, True) * 2 + 1e-5).rsqrt(), "a mean plus a number"),
    "power": (lambda x: (x.square().mean(-1, True) + 1e-5) ** -0.4, "must be 0.5 or -0.5"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_of_something_else_has_a_reason(name: str) -> None:
    root, reason = ROOTS[name]

    class Norm(RmsNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * (x * root(x))

    program = traced(Norm, torch.float32)
    result = program.apply(rms_norm.PASS)
    assert not result.matches
    (found,) = conditions(result)
    assert reason in found


class RoundedBefore(torch.nn.Module):
    """float16 that goes through bfloat16: the norm of the input itself would be another."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.randn(8, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.bfloat16().float()
        normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.scale * normed.to(x.dtype)


def test_a_cast_that_rounds_is_not_skipped() -> None:
    traced = trace(RoundedBefore(), torch.randn(2, 3, 8).half())
    result = traced.apply(rms_norm.PASS)
    assert (len(result.matches), len(result.near_misses)) == (0, 1)
    assert "cast back to the input's dtype" in result.near_misses[0].condition
