"""clean: what computes nothing goes, what only looks so stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from glmc.passes import canonical, clean
from tests.support.traced import Traced, trace

torch.set_num_threads(1)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> Traced:
    return trace(Function(function), torch.randn(4, 6).to(dtype), first=(canonical.PASS,))


def calls(program: Traced) -> list[str]:
    return [str(node.target) for node in program.program.graph.nodes if node.op == "call_function"]


IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": lambda x: x.clone().sin(),
    "clone of a transpose": lambda x: x.t().contiguous().t().sin(),
    "cast to its dtype": lambda x: x.to(torch.float32, copy=True).sin(),
    "times one": lambda x: (x * 1.0).sin(),
    "over one": lambda x: (x / 1).sin(),
    "plus zero": lambda x: (x.long() + 0).sin(),
    "minus zero": lambda x: (x - 0.0).sin(),
    "whole slice": lambda x: x[:, :].sin(),
    "chain": lambda x: ((x.clone() * 1 - 0)[:]).detach().sin(),
}
BUSY: dict[str, Callable[[Tensor], Tensor]] = {
    "cast to less": lambda x: x.bfloat16().float(),
    "times two": lambda x: x * 2,
    "plus one": lambda x: x + 1,
    "part of a slice": lambda x: x[..., 1:],
    "every other": lambda x: x[..., ::2],
    "one minus": lambda x: 1 - x,
    "three over": lambda x: 3 / (x.abs() + 3),
    "whole part": lambda x: torch.div(x, 1, rounding_mode="floor"),
    "whole number to float": lambda x: x.long() + 0.0,
}


@pytest.mark.parametrize("name", IDLE)
def test_drops(name: str) -> None:
    program = traced(IDLE[name])
    x = torch.randn(4, 6)
    before = program(x)[0]
    result = program.apply(clean.PASS)
    beside = ("permute", "sym_size", "_to_copy")
    left = [call for call in calls(program) if not any(name in call for name in beside)]
    assert left == ["aten.sin.default"]
    assert len(result.matches) >= (name != "cast to its dtype") - (name == "whole slice")
    assert torch.equal(program(x)[0], before)
    text = program.text()
    assert program.apply(clean.PASS).matches == []
    assert program.text() == text


@pytest.mark.parametrize("name", BUSY)
def test_keeps(name: str) -> None:
    program = traced(BUSY[name])
    x = 3 * torch.randn(4, 6)
    before, text = program(x)[0], program.text()
    assert program.apply(clean.PASS).matches == []
    assert program.text() == text
    assert torch.equal(program(x)[0], before)
    assert program(x)[0].dtype == before.dtype


def test_negative_zero() -> None:
    """-0.0 + 0 is +0.0, so a sum of floats stays; -0.0 - 0 is -0.0."""
    for function, kept in ((lambda x: x + 0.0, 1), (lambda x: x - 0.0, 0)):
        program = traced(function)
        x = torch.full((4, 6), -0.0)
        before = program(x)[0]
        program.apply(clean.PASS)
        assert len(program.nodes("aten.add", "aten.sub")) == kept
        assert torch.equal(program(x)[0].signbit(), before.signbit())
