"""Steps on several ranks give what they give on one."""

from __future__ import annotations

from pathlib import Path

import torch

import glmc_runtime
from tests.runtime.ranks.conftest import Start
from tests.runtime.toy import reference_greedy

PROMPTS = [[7, 3, 9, 1, 5], [4], [11, 2, 30, 8, 6, 1, 9]]


def test_two_ranks_give_the_tokens_and_logits_of_one(toy_path: Path, start: Start) -> None:
    ranks, one = start(toy_path), glmc_runtime.load(toy_path)
    sequences = [[session.sequence(prompt) for prompt in PROMPTS] for session in (ranks, one)]
    ours, theirs = ranks.prefill(sequences[0]), one.prefill(sequences[1])
    assert torch.equal(ours, theirs)
    tokens = ours.argmax(-1).tolist()
    assert torch.equal(ranks.decode(sequences[0], tokens), one.decode(sequences[1], tokens))
    answers = ranks.generate(PROMPTS, max_new_tokens=8, ignore_eos=True)
    assert [each.tokens for each in answers] == [reference_greedy(each, 8) for each in PROMPTS]
