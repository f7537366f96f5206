"""Greedy decode a step ahead: tokens, sequences and blocks of plain decode, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sequences import Sequence, SequenceStep
from glmc_runtime.errors import NumericsError, RequestError
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.step import blocks_for
from tests.runtime.engine.decoding import PROMPTS, block_counts, started, state
from tests.runtime.toy import (
    BLOCK_SIZE,
    MAX_CONTEXT,
    VOCABULARY,
    reference_greedy,
)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_each_turn_leaves_what_decode_leaves(session: Session, ahead: Session, rows: int) -> None:
    plain, tokens = started(session, PROMPTS[:rows])
    sequences, first = started(ahead, PROMPTS[:rows])
    assert tokens == first
    with ahead.greedy_steps(sequences, first) as steps:
        for _ in range(20):
            tokens = session.decode(plain, tokens).argmax(-1).tolist()
            assert next(steps) == tokens
            assert state(sequences) == state(plain)
            assert steps.ahead
    assert state(sequences) == state(plain)
    assert block_counts(sequences) == block_counts(plain)
    assert ahead.cache.allocator.available == session.cache.allocator.available
    counts = ahead.statistics.async_decode
    assert (counts.steps, counts.ahead, counts.discarded) == (20, 20, rows)


def _events(path: Path, **options: Any) -> tuple[Session, list[Any]]:
    kv_blocks = options.pop("kv_blocks", None)
    session = glmc_runtime.load(path, kv_blocks=kv_blocks)
    events = list(session.stream(options.pop("prompts", PROMPTS[:4]), **options))
    assert session.cache.allocator.available == session.cache.allocator.usable
    return session, events


_MIXED = [SamplingParameters(), SamplingParameters(1.3, seed=5), *[SamplingParameters()] * 2]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 12, "ignore_eos": True},
        {"max_new_tokens": 1, "ignore_eos": True},
        {"max_new_tokens": 2, "ignore_eos": True},
        {"max_new_tokens": 25},
        {"max_new_tokens": 25, "stop_token_ids": range(0, VOCABULARY, 5)},
        {"max_new_tokens": 50, "prompts": [[7] * (MAX_CONTEXT - 3), [1, 2]], "ignore_eos": True},
        {"max_new_tokens": 9, "prompts": PROMPTS, "stop_token_ids": range(0, VOCABULARY, 7)},
        {"max_new_tokens": 20, "prompts": PROMPTS[:3], "ignore_eos": True, "kv_blocks": 10},
        {"max_new_tokens": 20, "prompts": PROMPTS[:3], "ignore_eos": True, "kv_blocks": 12},
        {"max_new_tokens": 20, "prompts": PROMPTS, "kv_blocks": 14},
        {"max_new_tokens": 9, "prompts": [*PROMPTS, [4] * 50], "prefill_tokens": 2},
        {"max_new_tokens": 12, "sampling": _MIXED, "ignore_eos": True},
        {"max_new_tokens": 25, "sampling": _MIXED},
    ],
)
def test_generation_gives_the_same_events(
    toy_path: Path, greedy_path: Path, options: dict[str, Any]
) -> None:
    plain, expected = _events(toy_path, **options)
    session, events = _events(greedy_path, **options)
    assert events == expected
    assert session.statistics.preempted == plain.statistics.preempted
    assert session.statistics.finished == plain.statistics.finished


def test_a_batch_that_ends_by_length_discards_nothing(greedy_path: Path) -> None:
    session, _ = _events(greedy_path, prompts=PROMPTS[:3], max_new_tokens=12, ignore_eos=True)
    counts = session.statistics.to_json()["async_decode"]
    assert counts["steps"] == counts["ahead"] + 1 > 5
    assert counts["discarded_tokens"] == 0
    assert "ran ahead, 0 tokens discarded" in session.statistics.summary()
    assert 0 <= counts["waited_seconds"] <= counts["seconds"]


def test_a_request_that_stops_has_its_next_token_discarded(greedy_path: Path) -> None:
    tokens = reference_greedy(PROMPTS[0], 12)
    place = next(n for n in range(4, 12) if tokens[n] not in tokens[:n])
    session, events = _events(
        greedy_path,
        prompts=PROMPTS[:1],
        max_new_tokens=20,
        stop_token_ids=[tokens[place]],
        ignore_eos=True,
    )
    assert [event.token for event in events] == tokens[: place + 1]
    assert session.statistics.async_decode.discarded == 1


def test_a_sampling_batch_does_not_run_ahead(greedy_path: Path) -> None:
    sampling = SamplingParameters(1.0, seed=3)
    session, _ = _events(greedy_path, max_new_tokens=5, sampling=sampling, ignore_eos=True)
    assert session.statistics.async_decode.steps == 0
    assert "greedy steps" not in session.statistics.summary()


def test_closing_a_stream_gives_the_blocks_back(ahead: Session) -> None:
    stream = ahead.stream(PROMPTS[:3], max_new_tokens=20, ignore_eos=True)
    while not ahead.statistics.async_decode.ahead:
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert ahead.cache.allocator.available == ahead.cache.allocator.usable


def test_a_sequence_leaves_and_the_others_keep_their_step(session: Session, ahead: Session) -> None:
    plain, tokens = started(session, PROMPTS[:4])
    sequences, first = started(ahead, PROMPTS[:4])
    steps = ahead.greedy_steps(sequences, first)
    for turn in range(12):
        tokens = session.decode(plain, tokens).argmax(-1).tolist()
        assert next(steps) == tokens
        if turn % 4 == 3:
            gone = sequences.pop(1)
            session.release(plain.pop(1))
            del tokens[1]
            steps.leave(gone)
            assert len(gone.blocks) == blocks_for(gone.cached, BLOCK_SIZE)
            ahead.release(gone)
            assert steps.sequences == sequences
            assert steps.ahead  # taken as it is, but for the row of the one that left
    assert state(sequences) == state(plain)
    assert ahead.statistics.async_decode.discarded == 2  # and the last is still under way
    steps.close()
    assert list(steps) == []
    assert block_counts(sequences) == block_counts(plain)


def test_padding_rows_hold_token_0(ahead: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = ahead._replays[DECODE.key]
    sequences, first = started(ahead, PROMPTS[:4])
    seen: list[list[int]] = []
    run = replay.run_greedy

    def watch(*arguments: Any) -> torch.Tensor:
        result = run(*arguments)
        seen.append(replay._inputs.view("token_ids", (4,), (4, 4)).tolist())
        return result

    monkeypatch.setattr(replay, "run_greedy", watch)
    with ahead.greedy_steps(sequences, first) as steps:
        next(steps)
        steps.leave(sequences[-1])
        for _ in range(4):
            next(steps)
    assert [row[3] for row in seen[2:]] == [0] * len(seen[2:])
    assert len(seen) > 5


def test_tokens_that_the_caller_appends_are_seen(ahead: Session) -> None:
    sequences, first = started(ahead, PROMPTS[:1])
    steps = ahead.greedy_steps(sequences, first)
    next(steps)
    sequences[0].tokens.append(3)
    with pytest.raises(RequestError, match="must be prefilled"):
        next(steps)
    ahead.prefill(sequences)
    assert len(next(steps)) == 1


def test_a_greedy_step_is_the_argmax_of_a_step(session: Session, ahead: Session) -> None:
    chosen = []
    for each in (session, ahead):
        one, two = each.sequence([3, 14, 15, 9, 2]), each.sequence(list(range(40)))
        each.prefill([one])
        three = each.fork(one)
        parts = [
            SequenceStep(one, (7,)),
            SequenceStep(two, compute=21, logits=0),
            SequenceStep(three, (1, 2, 3), logits=3),
        ]
        for batch in (parts, [SequenceStep(two, compute=19, logits=1), SequenceStep(one, (5,))]):
            if each is session:
                chosen.append(each.step(batch).argmax(-1).tolist())
            else:
                assert each.step_greedy(batch) == chosen.pop(0)
    ahead._replays[DECODE.key]._binder._memory.weights["head"][5] = float("nan")
    before = state([one])
    with pytest.raises(NumericsError, match="not finite"):
        ahead.step_greedy([SequenceStep(one, (1,))])
    assert state([one]) == before


@pytest.mark.parametrize("seed", range(12))
def test_anything_may_happen_between_two_turns(session: Session, ahead: Session, seed: int) -> None:
    """The same calls on a session that runs ahead and on one that decodes step by step."""
    choose = random.Random(seed)
    plain, tokens = started(session, PROMPTS[:3])
    sequences, _ = started(ahead, PROMPTS[:3])
    steps = ahead.greedy_steps(sequences, tokens)
    others: list[list[Sequence]] = [[], []]

    def both(action: Callable[[Session, list[Sequence], list[Sequence]], object]) -> None:
        results = [
            action(each, list(batch), aside)
            for each, batch, aside in zip((session, ahead), (plain, sequences), others, strict=True)
        ]
        if isinstance(results[0], torch.Tensor):
            assert torch.equal(results[0], results[1])

    for _ in range(40):
        row, length = choose.randrange(3), choose.randrange(1, 4)
        kind = choose.choice(["turn", "turn", "turn", "fork", "aside", "drop", "cut", "again"])
        if max(map(len, plain)) > MAX_CONTEXT - 4:
            kind = "cut"
        if kind == "turn":
            tokens = session.decode(plain, tokens).argmax(-1).tolist()
            assert steps.step(ahead=choose.random() < 0.8) == tokens
        elif kind == "fork":
            both(lambda each, batch, aside, row=row: aside.append(each.fork(batch[row])))
        elif kind == "aside" and others[0] and len(others[0][-1]) < MAX_CONTEXT:
            both(lambda each, batch, aside: each.step([SequenceStep(aside[-1], (5,))]))
        elif kind == "drop" and others[0]:
            both(lambda each, batch, aside: each.release(aside.pop(0)))
        elif kind == "cut":
            row = max(range(3), key=lambda row: len(plain[row]))
            if len(plain[row]) > length:
                both(
                    lambda each, batch, aside, row=row, length=length: each.truncate(
                        batch[row], len(batch[row]) - length
                    )
                )
        elif kind == "again":
            both(lambda each, batch, aside, row=row: each.release(batch[row]))
            both(lambda each, batch, aside, row=row: each.prefill([batch[row]]))
        assert state(sequences) == state(plain)
        assert state(others[1]) == state(others[0])
    steps.close()
    assert block_counts(sequences) == block_counts(plain)
    for each, batch, aside in zip((session, ahead), (plain, sequences), others, strict=True):
        for sequence in [*batch, *aside]:
            each.release(sequence)
        assert each.cache.allocator.available == each.cache.allocator.usable
