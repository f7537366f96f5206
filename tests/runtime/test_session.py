"""Prefill and decode on explicit sequences against plain torch."""

from __future__ import annotations

import torch
from glmc_runtime.session import Session

from tests.runtime.toy import reference_greedy, reference_logits


def test_a_prompt_and_its_greedy_continuation_match_plain_torch(session: Session) -> None:
    prompt = [3, 14, 15, 9, 2, 6]
    completion = session.generate([prompt], max_new_tokens=12, ignore_eos=True)[0]
    assert completion.tokens == reference_greedy(prompt, 12)
    assert completion.finish_reason == "length"


def test_prefill_gives_the_logits_of_each_last_token(session: Session) -> None:
    prompts = [[1], [2, 3, 4, 5, 6], [7, 8]]
    logits = session.prefill([session.sequence(prompt) for prompt in prompts])
    for row, prompt in zip(logits, prompts, strict=True):
        torch.testing.assert_close(row, reference_logits(prompt))
