"""Sets of experts are compared, whatever their order, and a tie is told from a fault."""

from __future__ import annotations

import pytest
import torch

from glmc.check.align.routers import agreement, by_expert, choice, is_choice
from tests.check.align.memory_record import MemoryRecord

SCORES = torch.tensor([[0.9, 0.5, 0.4999, 0.1], [0.2, 0.8, 0.3, 0.7], [0.1, 0.2, 0.6, 0.9]])
CHOSEN = torch.tensor([[1, 0], [1, 3], [3, 2]])


def test_the_order_of_the_experts_does_not_matter() -> None:
    found = agreement(choice(CHOSEN, CHOSEN.flip(-1).int()), None, None)
    assert (found.tokens, found.agreeing, found.margins) == (3, 3, None)
    assert found.tied


def test_weights_are_in_the_order_of_the_experts() -> None:
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert torch.equal(by_expert(weights, CHOSEN), by_expert(weights.flip(-1), CHOSEN.flip(-1)))
    assert not torch.equal(by_expert(weights, CHOSEN), by_expert(weights.flip(-1), CHOSEN))


def test_a_tie_is_what_the_error_of_the_input_explains() -> None:
    other = torch.tensor([[0, 2], [1, 3], [3, 2]])
    errors = torch.tensor([1e-3, 1e-3, 1e-3])
    found = agreement(choice(CHOSEN, other), SCORES, errors)
    assert found.agreeing == 2
    assert found.margins == (pytest.approx(0.0001, rel=1e-2),)
    assert found.tied
    # The same exchange, where both sides read the same.
    assert agreement(choice(CHOSEN, other), SCORES, torch.zeros(3)).tied is False
    assert agreement(choice(CHOSEN, other), SCORES, None).tied is None


def test_an_expert_far_off_is_no_tie_though_the_scores_have_one() -> None:
    wrong = torch.tensor([[0, 3], [1, 3], [3, 2]])  # 0.1 in place of 0.5; 0.4999 was the tie
    found = agreement(choice(CHOSEN, wrong), SCORES, torch.full((3,), 1e-3))
    assert found.margins == (pytest.approx(0.4),)
    assert found.tied is False


def test_without_scores_that_choose_so_there_are_no_margins() -> None:
    other = torch.tensor([[0, 2], [1, 3], [3, 2]])
    assert agreement(choice(CHOSEN, other), None, torch.ones(3)).margins is None
    # The group of expert 0 was left out: its score is the highest, and it is not chosen.
    grouped = torch.tensor([[1, 2], [1, 3], [3, 2]])
    found = agreement(choice(grouped, CHOSEN), SCORES, torch.ones(3))
    assert found.margins is None and found.tied is None
    outside = torch.tensor([[0, 7], [1, 3], [3, 2]])
    assert agreement(choice(CHOSEN, outside), SCORES, torch.ones(3)).margins is None
    assert agreement(choice(CHOSEN, other), SCORES[:2], torch.ones(3)).margins is None


def test_only_whole_numbers_of_routers_and_experts_are_ids() -> None:
    made = MemoryRecord()
    ids, weights = torch.zeros(5, 4, dtype=torch.int64), torch.zeros(5, 4)
    made.add("model.layers.1.mlp.gate.Router.0.forward_output.2", ids)
    made.add("model.layers.1.mlp.experts.Experts.0.forward_input.1", ids)
    made.add("model.layers.1.mlp.gate.Router.0.forward_output.1", weights)
    made.add("model.layers.1.self_attn.Attention.0.forward_input.position_ids", ids)
    assert [is_choice(each, each) for each in made.tensors()] == [True, True, False, False]
