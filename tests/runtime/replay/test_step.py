"""Steps that mix chunks and single tokens, and ask for any number of rows of logits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.sequences import Sequence, SequenceStep
from glmc_runtime.errors import CapacityError, GlmcError, PlanError, RequestError
from glmc_runtime.format.phases import PREFILL
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.step import Step
from tests.runtime.toy import BLOCK_SIZE, MAX_CONTEXT, VOCABULARY, reference_logits

PROMPTS = [[1, 9], [2, 3, 4, 5, 6], list(range(10, 43)), [5] * 9]
State = tuple[list[int], list[int], int]


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits of size 30 in float32, summed in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def state(sequence: Sequence) -> State:
    return list(sequence.tokens), list(sequence.blocks), sequence.cached


def steps(session: Session) -> dict[tuple[str, int], int]:
    return {key: counts.steps for key, counts in session.statistics.buckets.items()}


def test_one_replay_prefills_and_decodes(session: Session) -> None:
    writer, other = session.sequence(PROMPTS[0]), session.sequence(PROMPTS[3])
    session.prefill([writer, other])
    reader = session.sequence(PROMPTS[1])
    before = steps(session)
    logits = session.step(
        [SequenceStep(writer, (7,)), SequenceStep(reader), SequenceStep(other, (8,))]
    )
    assert steps(session) == {**before, ("prefill", 8): 1}
    assert logits.shape == (3, VOCABULARY)
    for row, sequence in zip(logits, (writer, reader, other), strict=True):
        same(row, reference_logits(sequence.tokens))
        assert sequence.cached == len(sequence)
    assert writer.tokens == [*PROMPTS[0], 7]


def test_single_tokens_run_in_the_decode_plan_wherever_they_come_from(session: Session) -> None:
    writer, fresh = session.sequence(PROMPTS[0]), session.sequence([11])
    session.prefill([writer])
    long = session.sequence(PROMPTS[1])
    session.step([SequenceStep(long, compute=4, logits=0)])
    before = steps(session)
    logits = session.step([SequenceStep(fresh), SequenceStep(long), SequenceStep(writer, (3,))])
    assert steps(session) == {**before, ("decode", 4): 1}
    for row, sequence in zip(logits, (fresh, long, writer), strict=True):
        same(row, reference_logits(sequence.tokens))


def test_a_chunk_inside_a_prompt_gives_no_logits(session: Session) -> None:
    sequence = session.sequence(PROMPTS[2])
    empty = session.step([SequenceStep(sequence, compute=10, logits=0)])
    assert empty.shape == (0, VOCABULARY)
    assert sequence.cached == 10 and len(sequence.blocks) == 3
    same(session.step([SequenceStep(sequence)])[0], reference_logits(PROMPTS[2]))


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 9, 33])
def test_logits_behind_several_tokens(session: Session, wanted: int) -> None:
    """Beyond four rows, the largest decode bucket, in several replays."""
    first, scored = session.sequence(PROMPTS[0]), session.sequence(PROMPTS[2])
    session.prefill([first])
    logits = session.step([SequenceStep(first, (4,)), SequenceStep(scored, logits=wanted)])
    assert logits.shape == (1 + wanted, VOCABULARY)
    same(logits[0], reference_logits([*PROMPTS[0], 4]))
    for row in range(wanted):
        same(logits[1 + row], reference_logits(PROMPTS[2][: 33 - wanted + 1 + row]))


def test_drafts_are_verified_and_the_rejected_ones_forgotten(session: Session) -> None:
    sequence = session.sequence(PROMPTS[1])
    session.prefill([sequence])
    free = session.cache.allocator.available
    logits = session.step([SequenceStep(sequence, (20, 21, 22, 23), logits=4)])
    for row in range(4):
        same(logits[row], reference_logits([*PROMPTS[1], *range(20, 21 + row)]))
    session.truncate(sequence, 6)
    assert sequence.tokens == [*PROMPTS[1], 20]
    assert session.cache.allocator.available == free
    same(session.decode([sequence], [30])[0], reference_logits([*PROMPTS[1], 20, 30]))


def test_truncate_gives_whole_blocks_back(session: Session) -> None:
    sequence = session.sequence(PROMPTS[2])
    session.prefill([sequence])
    for length, blocks in ((33, 9), (32, 8), (30, 8), (9, 3), (8, 2), (0, 0)):
        session.truncate(sequence, length)
        assert len(sequence) == sequence.cached == length
        assert len(sequence.blocks) == blocks
        assert session.cache.allocator.available == session.cache.allocator.usable - blocks
    same(session.step([SequenceStep(sequence, (9, 8))])[0], reference_logits([9, 8]))
    sequence.tokens += [1, 2, 3]
    session.truncate(sequence, 4)  # within what is not cached yet
    assert (len(sequence), sequence.cached) == (4, 2)
    for wrong in (-1, 5):
        before = state(sequence)
        with pytest.raises(RequestError, match="truncated"):
            session.truncate(sequence, wrong)
        assert state(sequence) == before


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_parts_gives_the_logits_of_the_whole(session: Session, seed: int) -> None:
    chance = random.Random(seed)
    running = [session.sequence(prompt) for prompt in PROMPTS]
    for _ in range(12):
        parts = []
        for sequence in chance.sample(running, chance.randint(1, len(running))):
            fresh = len(sequence) - sequence.cached
            append = [chance.randrange(VOCABULARY) for _ in range(chance.randint(not fresh, 3))]
            if len(sequence) + len(append) > MAX_CONTEXT:
                continue
            compute = chance.randint(1, fresh + len(append))
            parts.append(SequenceStep(sequence, append, compute, chance.randint(0, compute)))
        if not parts:
            continue
        logits = session.step(parts)
        ends = [
            (part.sequence, part.sequence.cached - part.logits + 1 + row)
            for part in parts
            for row in range(part.logits)
        ]
        assert len(logits) == len(ends)
        for row, (sequence, end) in zip(logits, ends, strict=True):
            same(row, reference_logits(sequence.tokens[:end]))
        for sequence in running:
            assert len(sequence.blocks) == -(-sequence.cached // BLOCK_SIZE)


def test_refusals_change_nothing(session: Session) -> None:
    good, half = session.sequence(PROMPTS[0]), session.sequence(PROMPTS[1])
    session.step([SequenceStep(good), SequenceStep(half, compute=3, logits=0)])
    full = session.sequence([1] * (MAX_CONTEXT - 1))
    before = [state(sequence) for sequence in (good, half, full)]
    available = session.cache.allocator.available
    refused: list[tuple[str, Callable[[], list[SequenceStep]]]] = [
        ("no sequence", list),
        ("twice", lambda: [SequenceStep(good, (1,)), SequenceStep(good, (2,))]),
        ("no new token", lambda: [SequenceStep(half), SequenceStep(good)]),
        (
            "another number of tokens",
            lambda: [SequenceStep(good, (1,)), SequenceStep(half, compute=0)],
        ),
        (
            "another number of tokens",
            lambda: [SequenceStep(good, (1,)), SequenceStep(half, compute=3)],
        ),
        ("only after", lambda: [SequenceStep(good, (1,)), SequenceStep(half, compute=1, logits=2)]),
        ("only after", lambda: [SequenceStep(good, (1,)), SequenceStep(half, logits=-1)]),
        (
            "not in the vocabulary",
            lambda: [SequenceStep(half), SequenceStep(good, (1, VOCABULARY))],
        ),
        ("not in the vocabulary", lambda: [SequenceStep(half), SequenceStep(good, (1, -1), 1)]),
        ("context is full", lambda: [SequenceStep(good, (1,)), SequenceStep(full, (1, 2))]),
    ]
    for match, parts in refused:
        with pytest.raises(RequestError, match=match):
            session.step(parts())
        assert [state(sequence) for sequence in (good, half, full)] == before
        assert session.cache.allocator.available == available


def test_short_memory_is_refused_for_the_chunk_and_not_for_the_prompt(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=4)
    long, short = session.sequence([3] * 20), session.sequence([4])
    session.step([SequenceStep(long, compute=8, logits=0), SequenceStep(short)])
    before = state(long), state(short)
    with pytest.raises(CapacityError, match="too few free blocks"):
        session.step([SequenceStep(short, (5,)), SequenceStep(long, compute=1)])
    assert (state(long), state(short)) == before
    session.release(short)
    session.step([SequenceStep(long, compute=4)])


def test_a_replay_that_fails_leaves_all_tokens_uncached(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of the replays of the same step that went well."""
    writer, long = session.sequence(PROMPTS[0]), session.sequence(PROMPTS[2])
    session.prefill([writer])
    replay = session._replays[PREFILL.key]
    run, count = replay.run, [0]

    def fail_the_second(step: Step) -> torch.Tensor:
        count[0] += 1
        if count[0] == 2:
            raise PlanError("boom")
        return run(step)

    monkeypatch.setattr(replay, "run", fail_the_second)
    with pytest.raises(GlmcError, match="boom"):
        session.step([SequenceStep(writer, (7,)), SequenceStep(long)])
    assert (writer.tokens, writer.cached, long.cached) == (PROMPTS[0], 2, 0)
    logits = session.step([SequenceStep(writer, (7,)), SequenceStep(long)])
    same(logits[0], reference_logits([*PROMPTS[0], 7]))
    same(logits[1], reference_logits(PROMPTS[2]))
