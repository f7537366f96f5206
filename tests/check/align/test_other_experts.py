"""Which tokens another choice of experts reaches: itself, and what attends to it."""

from __future__ import annotations

import torch

from glmc.check.align.other_experts import AFTER, BEFORE, OtherExperts


def follow(others: OtherExperts, place: int, count: int) -> list[int]:
    tokens = torch.arange(count)
    return tokens[others.follow(place, tokens)].tolist()


def test_later_tokens_of_the_sequence_follow_from_the_next_layer_on() -> None:
    others = OtherExperts()
    others.begin([4, 3])
    assert follow(others, AFTER, 7) == []
    others.note(5, torch.tensor([1]))
    assert follow(others, BEFORE, 7) == follow(others, 4, 7) == []
    assert follow(others, 5, 7) == [1]  # attention of this layer was before
    assert follow(others, 6, 7) == follow(others, AFTER, 7) == [1, 2, 3]
    assert not others.up_to(4) and others.up_to(5) and others.up_to(AFTER)


def test_tokens_of_later_steps_read_what_the_cache_has() -> None:
    others = OtherExperts()
    others.begin([4, 3])
    others.note(5, torch.tensor([5]))
    others.begin([1, 1])
    assert follow(others, 5, 2) == []
    assert follow(others, 6, 2) == [1]
    others.note(2, torch.tensor([0]))
    assert follow(others, 2, 2) == [0] and follow(others, 3, 2) == [0]
    others.begin([1, 1])
    assert follow(others, 2, 2) == []
    assert follow(others, 3, 2) == [0] and follow(others, 6, 2) == [0, 1]


def test_the_earliest_token_of_several_counts() -> None:
    others = OtherExperts()
    others.begin([6])
    others.note(1, torch.tensor([4]))
    others.note(1, torch.tensor([2, 5]))
    assert follow(others, 1, 6) == [2, 4, 5]
    assert follow(others, 2, 6) == [2, 3, 4, 5]


def test_other_sequences_begin_anew() -> None:
    others = OtherExperts()
    others.begin([6])
    others.note(1, torch.tensor([0]))
    others.begin([1, 1])
    assert follow(others, AFTER, 2) == []
