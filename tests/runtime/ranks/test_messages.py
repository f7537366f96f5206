"""Steps as bytes: what a rank reads is what the controller meant, whatever came before."""

from __future__ import annotations

import random

import pytest

from glmc_runtime.engine.ranks.messages import Decoder, Encoder, Kind, Numbers, StepMessage
from glmc_runtime.errors import PlanError
from glmc_runtime.replay.step import ScheduledTokens, Step

SYMBOLS = [["extra"], []]


def random_step(chance: random.Random, rows: list[list[int]], phase: int) -> Step:
    """Rows keep their blocks, grow, or have others."""
    chunks = []
    for blocks in rows[: chance.randint(1, len(rows))]:
        change = chance.random()
        if change < 0.5:
            blocks.append(chance.randrange(1 << 20))
        elif change < 0.6:
            blocks[:] = [chance.randrange(1 << 20) for _ in range(chance.randrange(4))]
        elif change < 0.7 and blocks:
            blocks[chance.randrange(len(blocks))] += 1
        elif change < 0.8 and blocks:
            blocks.pop()
        tokens = [chance.randrange(1 << 40) for _ in range(chance.randint(1, 5))]
        chunks.append(
            ScheduledTokens(tokens, chance.randrange(1 << 33), blocks, chance.randint(0, 1))
        )
    total = sum(len(chunk.tokens) for chunk in chunks)
    sizes = {"extra": (9, chance.randint(0, 9))} if phase == 0 else {}
    return Step(chunks, total + chance.randint(0, 3), len(chunks) + chance.randint(0, 2), 16, sizes)


def test_steps_are_read_as_they_were_meant() -> None:
    chance = random.Random(5)
    encoder, decoder = Encoder(SYMBOLS), Decoder(SYMBOLS)
    rows = [[[] for _ in range(6)] for _ in SYMBOLS]
    for _ in range(300):
        phase = chance.randint(0, 1)
        step = random_step(chance, rows[phase], phase)
        kind = chance.choice([Kind.RUN, Kind.GREEDY, Kind.LAUNCH])
        read = decoder.read(encoder.step(kind, phase, step, 7))
        assert isinstance(read, StepMessage)
        assert (read.kind, read.phase, read.launcher, read.ahead) == (kind, phase, 7, False)
        assert read.step.sizes == step.sizes and read.step.real == step.real
        for ours, theirs in zip(read.step.chunks, step.chunks, strict=True):
            assert list(ours.tokens) == list(theirs.tokens)
            assert (ours.start, ours.blocks, ours.logits) == (
                theirs.start,
                theirs.blocks,
                theirs.logits,
            )


def test_a_step_ahead_has_no_ids_but_its_rows() -> None:
    encoder, decoder = Encoder(SYMBOLS), Decoder(SYMBOLS)
    step = Step([ScheduledTokens((0,), 9, [4, 5]), ScheduledTokens((0,), 3, [6])], 4, 4, 16)
    read = decoder.read(encoder.step(Kind.LAUNCH, 1, step, 3, ahead=True))
    assert isinstance(read, StepMessage) and read.ahead
    assert read.step.real == {"tokens": 2, "sequences": 2}


def test_a_decode_step_is_small_whatever_its_context() -> None:
    """64 sequences of 131,072 tokens; each has 8,192 blocks."""
    encoder = Encoder(SYMBOLS)
    rows = [list(range(8192)) for _ in range(64)]
    step = Step([ScheduledTokens((1,), 131000, blocks) for blocks in rows], 64, 64, 16)
    encoder.step(Kind.RUN, 1, step)
    assert len(encoder.step(Kind.RUN, 1, step)) < 4096


def test_after_forgetting_rows_are_told_anew() -> None:
    """A step that was written and never sent leaves nothing behind."""
    encoder, decoder = Encoder(SYMBOLS), Decoder(SYMBOLS)
    rows = [[4, 5], [6]]
    decoder.read(encoder.step(Kind.RUN, 1, step_of(rows)))
    encoder.step(Kind.RUN, 1, step_of([[4, 5, 9], [7]]))
    encoder.forget()
    for after in ([[4, 5, 9], [7, 8]], [[4, 5, 9], []]):
        read = decoder.read(encoder.step(Kind.RUN, 1, step_of(after)))
        assert isinstance(read, StepMessage)
        assert [chunk.blocks for chunk in read.step.chunks] == after


def test_rows_that_were_never_told_are_refused() -> None:
    """Where a message was lost, the next one is no step of other blocks."""
    encoder = Encoder(SYMBOLS)
    encoder.step(Kind.RUN, 1, step_of([[4, 5]]))
    later = encoder.step(Kind.RUN, 1, step_of([[4, 5, 6]]))
    with pytest.raises(PlanError, match="row 0 keeps 2 of 0 blocks"):
        Decoder(SYMBOLS).read(later)


@pytest.mark.parametrize("cut", [-4, -8, -12, -20, -60, 4, 8])
def test_a_message_of_another_length_is_refused(cut: int) -> None:
    whole = Encoder(SYMBOLS).step(Kind.RUN, 1, step_of([[4], [6]]))
    message = whole[:cut] if cut < 0 else whole + bytes(cut)
    with pytest.raises(PlanError, match="not well formed"):
        Decoder(SYMBOLS).read(message)


def step_of(rows: list[list[int]]) -> Step:
    return Step([ScheduledTokens((1,), 9, blocks) for blocks in rows], 2, 2, 16)


def test_numbers_and_what_is_none() -> None:
    decoder = Decoder(SYMBOLS)
    assert decoder.read(Encoder.numbers(Kind.COPY, 3, 9)) == Numbers(Kind.COPY, 3, 9)
    for message in (b"", b"\xff", Encoder.numbers(Kind.COPY)[:-1], bytes([Kind.RUN, 0])):
        with pytest.raises(PlanError, match="not well formed"):
            decoder.read(message)
