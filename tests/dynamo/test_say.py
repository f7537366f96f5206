"""What the backend logs: recompiles with the guard that failed, graph breaks, fusions."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from tests.dynamo.compiled import layer_of, prompt
from tests.support.logs import logged

NAMES = ("glmc.recompiles", "glmc.fusions", "glmc.graph_breaks", "glmc.passes")


def test_a_recompile_and_a_break_are_logged_with_their_reason() -> None:
    def program(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        return y * x.shape[0]

    torch._dynamo.reset()
    compiled = torch.compile(program, backend="kunlun", dynamic=False)
    with logged(*NAMES) as lines, torch.no_grad():
        compiled(torch.ones(2, 2))
        first = list(lines)
        compiled(torch.ones(3, 2))
    assert not [line for line in first if "recompiles" in line]
    (broken,) = [line for line in first if "graph_breaks" in line]
    assert broken.startswith("INFO glmc.graph_breaks: graph 0/0 ends before the program does: ")
    assert "test_say.py" in broken
    again = [line for line in lines if "recompiles" in line]
    assert again[0].startswith("INFO glmc.recompiles: graph 0/1 is compiled again: 0/0: ")
    assert "size mismatch at index 0. expected 2, actual 3" in again[0]


@pytest.mark.long
def test_fusions_of_a_model_are_logged() -> None:
    model = layer_of("glm")
    torch._dynamo.reset()
    with logged(*NAMES, level=logging.DEBUG) as lines, torch.no_grad():
        torch.compile(model, backend="kunlun")(prompt(1))
    (graph,) = [line for line in lines if line.startswith("INFO glmc.fusions: ")]
    assert graph.startswith("INFO glmc.fusions: graph 0/0 for cpu: canonical ")
    assert ", attention 1, " in graph and " calls, " in graph
    assert [line for line in lines if line.startswith("INFO glmc.passes: attention: 1 matches, ")]
    assert not [line for line in lines if "recompiles" in line or "breaks" in line]


def test_nothing_is_said_unless_it_is_asked_for() -> None:
    torch._dynamo.reset()
    with logged("glmc", level=logging.WARNING) as lines, torch.no_grad():
        torch.compile(nn.Linear(2, 2), backend="kunlun")(torch.ones(1, 2))
    assert lines == []
