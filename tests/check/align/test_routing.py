"""How near a router's nearest other choice is, with experts in groups and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from glmc.check.align.routing import errors_of_rows, gate_of, routed, spread_by_expert
from glmc.ir.ops import Numerics
from glmc.ir.tolerance import Tolerance

EXPERTS, HIDDEN, TOKENS = 8, 4, 3


def gate(groups: int, top_groups: int, top_k: int) -> tuple[Node, dict[Node, Any]]:
    """A router with scores of one half and the biases as given below, and its operands."""
    graph = Graph()
    x, weight, bias = (graph.placeholder(name) for name in ("x", "weight", "bias"))
    weight.meta["val"] = torch.empty(EXPERTS, HIDDEN)
    target = torch.ops.glmc.moe_gate.default
    arguments = (x, weight, bias, top_k, groups, top_groups, 0.0, True, 1e-20, 1.0)
    node = graph.call_function(target, arguments)
    biases = torch.tensor([0.8, 0.7, 0.6, 0.5, 0.45, 0.3, 0.2, 0.1])
    values = {
        x: torch.zeros(TOKENS, HIDDEN),
        weight: torch.zeros(EXPERTS, HIDDEN),
        bias: biases,
    }
    return node, values


@pytest.mark.parametrize(
    ("groups", "top_groups", "top_k", "margin"),
    [
        (1, 1, 2, 0.1),  # 0.7 is chosen and 0.6 is not
        (1, 1, 4, 0.05),
        (2, 1, 3, 0.1),  # the first group by far, and in it 0.6 before 0.5
        (4, 2, 4, 0.15),  # both groups whole: only another group could do; 0.5 + 0.6, 0.3 + 0.45
        (4, 3, 2, 0.1),
        (1, 1, 8, float("inf")),
    ],
)
def test_the_nearest_other_choice(groups: int, top_groups: int, top_k: int, margin: float) -> None:
    node, values = gate(groups, top_groups, top_k)
    found = routed(node, values)
    expected = torch.full((TOKENS,), margin)
    if (groups, top_groups, top_k) == (4, 2, 4):
        expected[:] = 0.35
    torch.testing.assert_close(found.margins, expected)
    assert found.scores.shape == (TOKENS, EXPERTS)
    assert not found.undecided(Tolerance(Numerics.REORDERED, 1024, 17)).any()


def test_a_rounding_decides_between_equal_scores() -> None:
    node, values = gate(1, 1, 2)
    bias = next(each for each in values if each.name == "bias")
    values[bias] = torch.tensor([0.8, 0.7, 0.7, 0, 0, 0, 0, 0]) + torch.zeros(EXPERTS)
    assert routed(node, values).undecided(Tolerance(Numerics.REORDERED, 1024, 17)).all()


def test_weights_by_expert_do_not_follow_the_order_of_ids() -> None:
    node, _ = gate(1, 1, 2)
    weights, ids = torch.tensor([[0.2, 0.5]]), torch.tensor([[6, 1]])
    spread = spread_by_expert(weights, ids, node)
    assert torch.equal(spread, spread_by_expert(weights.flip(1), ids.flip(1), node))
    assert spread[0, 6] == weights[0, 0] and spread.count_nonzero() == 2


def test_only_results_of_a_router_are_its() -> None:
    node, _ = gate(1, 1, 2)
    assert gate_of(node) is None


def test_errors_are_shares_of_their_rows() -> None:
    expected = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    errors = errors_of_rows(expected, expected + torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.0, 0.0]]))
    torch.testing.assert_close(errors, torch.tensor([0.1, 0.01, 0.0], dtype=torch.double))
