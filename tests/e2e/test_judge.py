"""Texts are compared up to where they part by a close call, and after that left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tests.e2e.judge import Outcome, chosen, judged


def model(gap: float) -> Any:
    """Two tokens are best after every other, ``gap`` apart."""

    def run(input_ids: torch.Tensor, use_cache: bool) -> Any:
        logits = torch.zeros(*input_ids.shape, 8)
        logits[..., 3], logits[..., 5] = 2.0 + gap, 2.0
        return SimpleNamespace(logits=logits)

    return run


TEXTS = [[1, 2], [4]]
WANTED = [[3, 3, 3, 3], [3, 3, 3, 3]]


def test_the_same_tokens_are_all_compared() -> None:
    assert judged(model(0.5), TEXTS, WANTED, WANTED) == Outcome(2, 8, 0, 0)


def test_tokens_after_a_close_call_are_left_out() -> None:
    found = [[3, 5, 3, 3], [3, 3, 3, 3]]
    assert judged(model(1e-4), TEXTS, WANTED, found) == Outcome(2, 5, 3, 0)


def test_tokens_that_part_without_one_differ() -> None:
    found = [[3, 5, 3, 3], [3, 3, 3, 3]]
    assert judged(model(0.5), TEXTS, WANTED, found) == Outcome(2, 8, 0, 3)


def test_continuations_beside_what_the_model_chooses_itself() -> None:
    found = [[3, 5, 3, 3], [3, 3, 3, 3]]
    assert chosen(model(0.5), TEXTS, WANTED) == (Outcome(2, 8, 0, 0), [])
    assert chosen(model(1e-4), TEXTS, found) == (Outcome(2, 5, 3, 0), [])
    outcome, (where,) = chosen(model(0.5), TEXTS, found)
    assert outcome == Outcome(2, 8, 0, 3)
    assert where == "text 0 of 2 tokens, new token 1: 3 is best by 0.5, 5 was found"


def test_outcomes_add_up() -> None:
    assert Outcome(1, 2, 3, 4) + Outcome(5, 6, 7, 8) == Outcome(6, 8, 10, 12)
