"""Autocast around the program, and where the program itself turns it on and off."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.dynamo.compile.autocast import restored

HALF = torch.bfloat16


def _turned_on(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    before = x @ w
    with torch.autocast("cpu", dtype=HALF):
        inside = x @ w
        norm = torch.nn.functional.layer_norm(inside, (8,))
    return before, inside, norm, x @ w


def _turned_off(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", enabled=False):
        inside = x @ w
    return inside, x @ w, (x @ w).softmax(-1)


@pytest.mark.parametrize("function", [_turned_on, _turned_off])
@pytest.mark.parametrize("outer", [True, False])
def test_switches_inside_the_program(function: Any, outer: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="kunlun", fullgraph=True)
    x, w = torch.randn(4, 8), torch.randn(8, 8)
    with torch.autocast("cpu", dtype=HALF) if outer else nullcontext():
        for found, expected in zip(compiled(x, w), function(x, w), strict=True):
            torch.testing.assert_close(found, expected)
    assert not torch.is_autocast_enabled("cpu")


def test_the_programs_own_code_runs_under_its_autocast() -> None:
    """Inputs that overlap, of which one is written, are left to it."""

    def function(target: Tensor, source: Tensor) -> Tensor:
        target.copy_(source * 2)
        return target @ source.t()

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="kunlun")
    memory, twin = torch.randn(10, 8), torch.empty(10, 8)
    twin.copy_(memory)
    with torch.autocast("cpu", dtype=HALF):
        found = compiled(memory[1:5], memory[2:6])
        expected = function(twin[1:5], twin[2:6])
    assert found.dtype == HALF
    torch.testing.assert_close(found, expected)


def test_a_trace_that_fails_leaves_autocast_as_it_was() -> None:
    with pytest.raises(KeyError), restored("cpu"):
        torch.autocast("cpu", dtype=torch.float16).__enter__()
        raise KeyError
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_autocast_dtype("cpu") == HALF
