"""Graphs that are made functional without a second trace are those of torch's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tests.support.checked_functional import TRACE, assert_same_graph
from tests.support.quick_functional import NeedsTraceError, functional_graph

_HERE = Path(__file__).parents[2]
_TRACING = (
    "tests/passes",
    "tests/lowering",
    "tests/pipeline",
    "tests/backends",
    "tests/mutation",
    "tests/e2e/test_same_answers.py",
    "tests/e2e/test_same_plan.py",
)


class _Module(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def _exported(function: Callable[[Tensor], Tensor]) -> ExportedProgram:
    module = _Module(function).eval().requires_grad_(False)
    sizes = ({0: Dim.AUTO, 1: Dim.AUTO},)
    return torch.export.export(module, (torch.ones(2, 7, 8),), strict=False, dynamic_shapes=sizes)


def _views(x: Tensor) -> Tensor:
    """Views, copies, copies that are none, and sizes that only a copy asks for."""
    batch, tokens, _ = x.shape
    heads = x.to(torch.float64).to(torch.float64).reshape(batch, tokens, 2, 4).transpose(1, 2)
    left, right = heads.reshape(batch * tokens, -1).chunk(2, dim=-1)
    right = torch.dropout(right, 0.5, False)
    return torch.cat((right, left.contiguous()), dim=-1).flatten()


def _writes(x: Tensor) -> Tensor:
    scores = torch.sigmoid(x).masked_fill_(x > 1, 0.5)
    return (scores * 2).add_(scores).div_(3)


def _written_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0].add_(1)
    return y


@pytest.mark.parametrize("function", [_views, _writes])
def test_the_graph_of_torch(function: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        quick, program = functional_graph(_exported(function)), _exported(function)
        assert_same_graph(quick, TRACE(program, {}).graph_module.graph)
        with pytest.raises(AssertionError, match="quick: "):
            assert_same_graph(quick, program.graph_module.graph)


def test_a_write_into_a_view_is_left_to_torch() -> None:
    with torch.no_grad(), pytest.raises(NeedsTraceError):
        functional_graph(_exported(_written_view))


@pytest.mark.slow
def test_every_graph_of_the_tests_that_trace_most() -> None:
    """Minutes: each trace twice."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.checked_functional", "-n", "0"]
    run = subprocess.run([*command, *_TRACING], cwd=_HERE, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "graphs are those of torch's own trace" in run.stdout
