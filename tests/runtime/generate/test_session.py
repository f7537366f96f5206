"""Prefill and decode on explicit sequences against plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.errors import CapacityError, PlanError, RequestError
from glmc_runtime.generate.session import Session
from tests.runtime.toy import MAX_CONTEXT, VOCABULARY, reference_logits

PROMPTS = [[1], [2, 3, 4, 5, 6], [7, 8], list(range(10, 43)), [5] * 9]


def _same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits of size 30 in float32, summed in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_prefill_gives_the_logits_of_each_last_token(session: Session) -> None:
    logits = session.prefill([session.sequence(prompt) for prompt in PROMPTS])
    assert logits.shape == (len(PROMPTS), VOCABULARY)
    for row, prompt in zip(logits, PROMPTS, strict=True):
        _same(row, reference_logits(prompt))


@pytest.mark.parametrize("cuts", [(33,), (16, 17), (1, 2, 30), (7, 7, 7, 7, 5)])
def test_chunks_of_any_size_give_the_logits_of_the_whole(
    session: Session, cuts: tuple[int, ...]
) -> None:
    prompt = PROMPTS[3]
    sequence = session.sequence(prompt[: cuts[0]])
    logits = session.prefill([sequence])
    for cut in cuts[1:]:
        sequence.tokens += prompt[len(sequence) : len(sequence) + cut]
        logits = session.prefill([sequence])
    _same(logits[0], reference_logits(prompt))


def test_a_ragged_batch_equals_one_by_one(session: Session) -> None:
    together = session.prefill([session.sequence(prompt) for prompt in PROMPTS])
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = session.sequence(prompt)
        _same(session.prefill([alone])[0], row)
        session.release(alone)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_decode_matches_in_every_bucket(session: Session, number: int) -> None:
    prompts = PROMPTS[:number]
    sequences = [session.sequence(prompt) for prompt in prompts]
    session.prefill(sequences)
    for step in range(6):
        tokens = [(17 * step + 5 * row) % VOCABULARY for row in range(number)]
        logits = session.decode(sequences, tokens)
        assert logits.shape == (number, VOCABULARY)
        for row, sequence in zip(logits, sequences, strict=True):
            assert sequence.cached == len(sequence)
            _same(row, reference_logits(sequence.tokens))


def test_other_sequences_and_stale_blocks_do_not_leak(session: Session) -> None:
    for _ in range(3):
        sequence = session.sequence([9, 8, 7, 6, 5])
        others = [session.sequence([row + 1] * 20) for row in range(3)]
        session.prefill([others[0], sequence, others[1], others[2]])
        for other in others:
            session.release(other)
        logits = session.decode([sequence], [4])
        _same(logits[0], reference_logits([9, 8, 7, 6, 5, 4]))
        session.release(sequence)


def test_prefill_counts_buckets_and_padding(session: Session) -> None:
    session.prefill([session.sequence(list(range(1, 20)))])  # 16 + 3 in a bucket of 4
    counts = session.statistics.buckets
    assert {key: (item.steps, item.rows, item.real_rows) for key, item in counts.items()} == {
        ("prefill", 16): (1, 16, 16),
        ("prefill", 4): (1, 4, 3),
    }


def test_too_few_blocks_change_nothing(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=4)
    first, second = session.sequence([1] * 8), session.sequence([2] * 8)
    with pytest.raises(CapacityError) as caught:
        session.prefill([first, second])
    assert "4 blocks for 2 sequences" in str(caught.value)
    assert "3 free of 3" in str(caught.value)
    assert (first.cached, first.blocks, second.blocks) == (0, [], [])
    session.prefill([first])
    session.decode([first], [3])
    for token in range(3):
        session.decode([first], [token])
    with pytest.raises(CapacityError):
        session.decode([first], [9])
    assert len(first) == first.cached == 12
    session.release(first)
    again = session.prefill([first])[0]  # its tokens are as they were
    _same(again, reference_logits([1] * 8 + [3, 0, 1, 2]))


def test_more_sequences_than_the_largest_bucket(session: Session) -> None:
    """A decode is one replay and refuses them; a step takes several replays."""
    sequences = [session.sequence([row, 3]) for row in range(5)]
    session.prefill(sequences)
    with pytest.raises(CapacityError, match="beyond the largest bucket"):
        session.decode(sequences, [7, 8, 9, 10, 11])
    assert all(len(sequence) == 2 for sequence in sequences)
    logits = session.step([SequenceStep(one, (7 + row,)) for row, one in enumerate(sequences)])
    for row, sequence in zip(logits, sequences, strict=True):
        _same(row, reference_logits(sequence.tokens))
    counts = session.statistics.buckets
    assert {key: item.steps for key, item in counts.items()} == {
        ("prefill", 8): 1,
        ("decode", 1): 1,
        ("decode", 4): 1,
        ("prefill", 4): 1,
    }


def test_requests_that_can_not_be_right(session: Session) -> None:
    with pytest.raises(RequestError, match="empty"):
        session.sequence([])
    with pytest.raises(RequestError, match="longer than the context"):
        session.sequence([1] * (MAX_CONTEXT + 1))
    for token in (-1, VOCABULARY):
        with pytest.raises(RequestError, match="not in the vocabulary"):
            session.sequence([token])
    sequence = session.sequence([1])
    with pytest.raises(RequestError, match="must be prefilled"):
        session.decode([sequence], [1])
    with pytest.raises(RequestError, match="no sequence"):
        session.prefill([])
    with pytest.raises(RequestError, match="twice"):
        session.prefill([sequence, sequence])
    session.prefill([sequence])
    with pytest.raises(RequestError, match="no new token"):
        session.prefill([sequence])
    with pytest.raises(RequestError, match="one token for each"):
        session.decode([sequence], [1, 2])
    with pytest.raises(RequestError, match="not in the vocabulary"):
        session.decode([sequence], [VOCABULARY])


def test_the_context_ends(session: Session) -> None:
    sequence = session.sequence([1] * (MAX_CONTEXT - 1))
    session.prefill([sequence])
    logits = session.decode([sequence], [2])
    _same(logits[0], reference_logits([1] * (MAX_CONTEXT - 1) + [2]))
    with pytest.raises(RequestError, match="context is full"):
        session.decode([sequence], [2])


def test_logits_are_the_callers_to_keep_and_to_change(session: Session) -> None:
    sequence = session.sequence([1, 2, 3])
    first = session.prefill([sequence])
    first.div_(2.0)
    second = session.decode([sequence], [4])
    second.div_(2.0)
    session.decode([sequence], [5])
    _same(first[0] * 2, reference_logits([1, 2, 3]))
    _same(second[0] * 2, reference_logits([1, 2, 3, 4]))


def test_appended_tokens_are_checked(session: Session) -> None:
    sequence = session.sequence([1])
    session.prefill([sequence])
    sequence.tokens.append(VOCABULARY)
    with pytest.raises(RequestError, match="not in the vocabulary"):
        session.prefill([sequence])
    assert (sequence.cached, len(sequence.blocks)) == (1, 1)


def test_more_blocks_than_a_table_holds_do_not_spill_into_the_next_row(session: Session) -> None:
    mine, other = session.sequence([1]), session.sequence([2])
    mine.blocks = session.cache.allocator.allocate(session.manifest.cache.blocks_per_sequence + 1)
    with pytest.raises(RequestError, match="more blocks"):
        session.prefill([other, mine])
    assert mine.cached == other.cached == 0


def test_release_gives_the_blocks_back_once(session: Session) -> None:
    free = session.cache.allocator.available
    sequence = session.sequence([1] * 20)
    session.prefill([sequence])
    blocks = list(sequence.blocks)
    session.release(sequence)
    session.release(sequence)  # it owns nothing any more
    assert session.cache.allocator.available == free
    with pytest.raises(PlanError):
        session.cache.allocator.free(blocks)
