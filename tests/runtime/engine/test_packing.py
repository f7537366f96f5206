"""Packing: order, limits and completeness for any chunks; one replay wherever one is enough."""

from __future__ import annotations

import random

import pytest

from glmc_runtime.engine.packing import micro_batches_of, step_of
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.step import ScheduledTokens

BLOCKS = list(range(1, 200))
PREFILL, DECODE = Buckets("prefill", (4, 16)), Buckets("decode", (1, 2, 4))


def _chunk(count: int, logits: int = 1, start: int = 0) -> ScheduledTokens:
    return ScheduledTokens(list(range(start, start + count)), start, BLOCKS, logits)


def _rows(chunks: list[ScheduledTokens]) -> list[tuple[int, bool]]:
    """Position and whether logits are wanted, token for token."""
    return [
        (chunk.start + place, place >= len(chunk.tokens) - chunk.logits)
        for chunk in chunks
        for place in range(len(chunk.tokens))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_replays_are_the_chunks_cut_to_the_buckets(seed: int) -> None:
    chance = random.Random(seed)
    prefill = Buckets("prefill", chance.choice(((1,), (3,), (4, 16), (4, 40))))
    decode = Buckets("decode", chance.choice(((1,), (2, 4), (8,), (1, 20))))
    chunks = []
    for _ in range(chance.randint(1, 9)):
        count = chance.choice((1, 1, 2, 5, 50))
        chunks.append(_chunk(count, chance.choice((0, 1, count)), chance.randint(0, 9)))
    replays = micro_batches_of(chunks, prefill, decode)
    assert _rows([chunk for replay in replays for chunk in replay]) == _rows(chunks)
    for replay in replays:
        phase, step = step_of(replay, prefill, decode, 4)
        largest = decode.largest if phase == "decode" else prefill.largest
        assert step.tokens <= largest and step.sequences <= min(largest, decode.largest)
        assert (phase == "decode") == all(len(chunk.tokens) == 1 for chunk in replay)
        assert max(chunk.logits for chunk in replay) <= 1
        for chunk in replay:
            assert chunk.blocks is BLOCKS


@pytest.mark.parametrize(
    ("chunks", "replays"),
    [
        ([_chunk(1)] * 4, 1),
        ([_chunk(1)] * 5, 2),
        ([_chunk(16)], 1),
        ([_chunk(1), _chunk(14), _chunk(1)], 1),
        ([_chunk(1), _chunk(16)], 2),
        ([_chunk(1)] * 3 + [_chunk(2)] * 2, 2),  # five sequences
        ([_chunk(16, 4)], 1),
        ([_chunk(15, 3), _chunk(1)], 1),
        ([_chunk(16, 5)], 2),  # five slices
        ([_chunk(4, 4)], 1),
        ([_chunk(9, 0), _chunk(4, 3)], 1),
        ([_chunk(40, 0)], 3),
    ],
)
def test_the_number_of_replays(chunks: list[ScheduledTokens], replays: int) -> None:
    assert len(micro_batches_of(chunks, PREFILL, DECODE)) == replays


def test_logits_after_several_tokens_slice_a_chunk() -> None:
    (replay,) = micro_batches_of([_chunk(5, 3, 2), _chunk(1, 1, 7)], PREFILL, DECODE)
    phase, step = step_of(replay, PREFILL, DECODE, 4)
    assert (phase, step.tokens, step.sequences, step.padding) == ("prefill", 16, 4, 10)
    assert step.column("cu_seqlens_q") == [0, 3, 4, 5, 6]
    assert step.column("context_lengths") == [5, 6, 7, 8]
    assert step.column("last_rows") == [2, 3, 4, 5]


def test_drafted_tokens_run_in_the_decode_plan() -> None:
    (replay,) = micro_batches_of([_chunk(3, 3, 8), _chunk(1, 1, 2)], PREFILL, DECODE)
    phase, step = step_of(replay, PREFILL, DECODE, 4)
    assert (phase, step.tokens, step.sequences) == ("decode", 4, 4)
    assert list(step.column("positions")) == [8, 9, 10, 2]
    assert step.column("context_lengths") == [9, 10, 11, 3]


def test_slices_of_one_sequence_leave_a_decode_plan_with_fused_cache_write() -> None:
    drafts, other = _chunk(3, 3, 8), _chunk(1, 1, 2)._replace(blocks=[7])
    (replay,) = micro_batches_of([drafts, other], PREFILL, DECODE, fused_cache_write=True)
    assert step_of(replay, PREFILL, DECODE, 4, fused_cache_write=True)[0] == "prefill"
    (replay,) = micro_batches_of([_chunk(1, 1, 7), other], PREFILL, DECODE, fused_cache_write=True)
    assert step_of(replay, PREFILL, DECODE, 4, fused_cache_write=True)[0] == "decode"
