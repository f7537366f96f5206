"""Async decode where a step fails: the sequences are as synchronous decode leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.errors import CapacityError, NumericsError, RequestError, VendorError
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.step import Step
from tests.runtime.engine.decoding import PROMPTS, block_counts, started, state
from tests.runtime.toy import (
    MAX_CONTEXT,
    VOCABULARY,
    reference_greedy,
)


def test_a_full_context_is_refused_as_by_decode(session: Session, ahead: Session) -> None:
    errors = []
    for each in (session, ahead):
        sequences, tokens = started(each, [[7] * (MAX_CONTEXT - 3), [1]])
        with pytest.raises(RequestError, match="context is full") as caught:
            if each is session:
                while True:
                    tokens = each.decode(sequences, tokens).argmax(-1).tolist()
            list(each.greedy_steps(sequences, tokens))
        assert [len(sequence) for sequence in sequences] == [MAX_CONTEXT, 4]
        errors.append((str(caught.value), state(sequences)))
    assert errors[0] == errors[1]


def test_short_blocks_end_running_ahead_and_then_decoding(
    toy_path: Path, greedy_path: Path
) -> None:
    states = []
    for path in (toy_path, greedy_path):
        session = glmc_runtime.load(path, kv_blocks=6)
        sequences, tokens = started(session, [[1, 2, 3], [4, 5, 6, 7]])
        turns = 0
        with pytest.raises(CapacityError, match="too few free blocks"):
            if path == toy_path:
                while True:
                    tokens = session.decode(sequences, tokens).argmax(-1).tolist()
                    turns += 1
            steps = session.greedy_steps(sequences, tokens)
            while True:
                tokens = next(steps)
                turns += 1
        states.append((turns, tokens, state(sequences)))
        if path == greedy_path:
            assert not steps.ahead
            freed = sequences[0]
            steps.leave(freed)
            session.release(freed)
            assert len(next(steps)) == 1
    assert states[0] == states[1]


@pytest.mark.parametrize("position", [3, 4, 9, 10])
def test_logits_that_are_not_finite(session: Session, ahead: Session, position: int) -> None:
    errors = []
    for each in (session, ahead):
        each._replays[DECODE.key]._binder._memory.weights["places"][position] = float("nan")
        tokens = []
        with pytest.raises(NumericsError) as caught:
            for event in each.stream([PROMPTS[0]], max_new_tokens=20, ignore_eos=True):
                tokens.append(event.token)
        errors.append((caught.value.message, caught.value.remedy, tokens))
        assert each.cache.allocator.available == each.cache.allocator.usable
    assert errors[0] == errors[1]
    assert len(tokens) == position - 2


def test_steps_end_at_logits_that_are_not_finite_with_the_sequences_of_decode(
    session: Session, ahead: Session
) -> None:
    states = []
    for each in (session, ahead):
        each._replays[DECODE.key]._binder._memory.weights["places"][8] = float("nan")
        sequences, tokens = started(each, [[1, 2], [3, 4, 5]])
        if each is session:
            while all(len(sequence) < 9 for sequence in sequences):
                tokens = each.decode(sequences, tokens).argmax(-1).tolist()
        else:
            steps = each.greedy_steps(sequences, tokens)
            with pytest.raises(NumericsError, match="not finite"):
                list(steps)
            assert (steps.sequences, steps.ahead, list(steps)) == ([], False, [])
        states.append((state(sequences), block_counts(sequences)))
    assert states[0] == states[1]


def test_a_token_that_is_none_never_reaches_the_embedding(
    ahead: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead._replays[DECODE.key]._binder._memory.weights["head"][5] = float("nan")
    sequences, _ = started(ahead, PROMPTS[:3])
    inputs = ahead._replays[DECODE.key]._inputs
    fill, given = inputs.fill, []

    def watch(step: Step, tokens: torch.Tensor | None = None) -> None:
        given.append(None if tokens is None else tokens.tolist())
        fill(step, tokens)

    monkeypatch.setattr(inputs, "fill", watch)
    with pytest.raises(NumericsError):
        next(ahead.greedy_steps(sequences, [1, 2, 3]))
    assert given == [None, [0, 0, 0, 0]]


def test_a_step_that_fails_ahead_fails_when_its_turn_comes(
    ahead: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences, first = started(ahead, PROMPTS[:2])
    steps = ahead.greedy_steps(sequences, first)
    replay = ahead._replays[DECODE.key]
    run, calls = replay.run_greedy, [0]

    def flaky(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise VendorError("boom")
        return run(*arguments)

    monkeypatch.setattr(replay, "run_greedy", flaky)
    assert next(steps) == [reference_greedy(prompt, 2)[1] for prompt in PROMPTS[:2]]
    before = state(sequences)
    with pytest.raises(VendorError, match="boom"):
        next(steps)
    assert state(sequences) == before
    assert next(steps) == [reference_greedy(prompt, 3)[2] for prompt in PROMPTS[:2]]
    steps.close()


def test_what_greedy_steps_refuse(session: Session, ahead: Session) -> None:
    sequences, tokens = started(session, PROMPTS[:1])
    with pytest.raises(RequestError, match="does not compute the likeliest tokens"):
        session.greedy_steps(sequences, tokens)
    sequences, tokens = started(ahead, PROMPTS[:2])
    with pytest.raises(RequestError, match="no sequence"):
        ahead.greedy_steps([], [])
    with pytest.raises(RequestError, match="one token for each"):
        ahead.greedy_steps(sequences, tokens[:1])
    with pytest.raises(RequestError, match="twice"):
        ahead.greedy_steps([sequences[0]] * 2, tokens)
    with pytest.raises(RequestError, match="must be prefilled"):
        ahead.greedy_steps([ahead.sequence([1])], [1])
    with pytest.raises(CapacityError, match="beyond the largest bucket"):
        more, tokens = started(ahead, PROMPTS[:5])
        ahead.greedy_steps(more, tokens)
    with pytest.raises(RequestError, match="not in the vocabulary"):
        next(ahead.greedy_steps(sequences[:1], [VOCABULARY]))
