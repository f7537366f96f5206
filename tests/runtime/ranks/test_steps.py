"""Steps on several ranks give what they give on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.sequences import SequenceStep
from tests.runtime.ranks.conftest import Start
from tests.runtime.toy import reference_greedy

pytestmark = pytest.mark.long
PROMPTS = [[7, 3, 9, 1, 5], [4], [11, 2, 30, 8, 6, 1, 9]]


def test_two_ranks_give_the_tokens_and_logits_of_one(
    toy_path: Path, ranks_path: Path, start: Start
) -> None:
    ranks, one = start(ranks_path), glmc_runtime.load(toy_path)
    sequences = [[session.sequence(prompt) for prompt in PROMPTS] for session in (ranks, one)]
    ours, theirs = ranks.prefill(sequences[0]), one.prefill(sequences[1])
    assert torch.equal(ours, theirs)
    tokens = ours.argmax(-1).tolist()
    assert torch.equal(ranks.decode(sequences[0], tokens), one.decode(sequences[1], tokens))
    answers = ranks.generate(PROMPTS, max_new_tokens=8, ignore_eos=True)
    assert [each.tokens for each in answers] == [reference_greedy(each, 8) for each in PROMPTS]


def test_async_decode_and_shared_blocks(greedy_ranks_path: Path, start: Start) -> None:
    session = start(greedy_ranks_path)
    parent = session.sequence(PROMPTS[0])
    session.prefill([parent])
    child = session.fork(parent)
    (first,) = reference_greedy(PROMPTS[0], 1)
    with session.greedy_steps([parent, child], [first, 9]) as steps:
        rows = [steps.step() for _ in range(5)]
        assert steps.ahead
    assert [row[0] for row in rows] == reference_greedy(PROMPTS[0], 6)[1:]
    assert [row[1] for row in rows] == reference_greedy([*PROMPTS[0], 9], 5)
    session.release(parent)
    # After a discarded step the answers are still those of their questions.
    assert session.step_greedy([SequenceStep(session.sequence(PROMPTS[2]))]) == reference_greedy(
        PROMPTS[2], 1
    )
    assert session.statistics.to_json()["async_decode"]["steps"] == 5
    assert session.generate(PROMPTS[0], max_new_tokens=6, ignore_eos=True)[
        0
    ].tokens == reference_greedy(PROMPTS[0], 6)
