"""Forked sequences share blocks until one of them writes."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

import glmc_runtime
from glmc_runtime.engine.sequences import Sequence, SequenceStep
from glmc_runtime.errors import CapacityError
from glmc_runtime.generate.session import Session
from tests.runtime.replay.test_step import same, state
from tests.runtime.toy import BLOCK_SIZE, MAX_CONTEXT, VOCABULARY, reference_logits

PROMPT = [7, 3, 9, 1, 5, 5, 2, 8, 6, 4]  # two full blocks of four and a half one


def test_a_fork_takes_no_block_until_someone_writes(session: Session) -> None:
    parent = session.sequence(PROMPT)
    session.prefill([parent])
    available = session.cache.allocator.available
    children = [session.fork(parent) for _ in range(3)]
    family = [parent, *children]
    assert session.cache.allocator.available == available
    assert all(child.blocks == parent.blocks and child.cached == 10 for child in children)
    assert [session.blocks_needed(child, 11) for child in family] == [1] * 4
    logits = session.decode(family, [11, 12, 13, 14])
    for row, token in zip(logits, (11, 12, 13, 14), strict=True):
        same(row, reference_logits([*PROMPT, token]))
    # Three copies for four owners: the last one keeps the block.
    assert session.cache.allocator.available == available - 3
    assert len({sequence.blocks[2] for sequence in family}) == 4
    assert len({tuple(sequence.blocks[:2]) for sequence in family}) == 1
    for step in range(6):
        tokens = [step, 20 + step, 30 + step, 40 + step]
        logits = session.decode(family, tokens)
        for row, sequence in zip(logits, family, strict=True):
            same(row, reference_logits(sequence.tokens))
    for sequence in family:
        session.release(sequence)
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_full_blocks_are_never_copied(session: Session) -> None:
    parent = session.sequence(PROMPT[:8])
    session.prefill([parent])
    child = session.fork(parent)
    available = session.cache.allocator.available
    logits = session.step([SequenceStep(parent, (1,)), SequenceStep(child, (2, 3))])
    same(logits[0], reference_logits([*PROMPT[:8], 1]))
    same(logits[1], reference_logits([*PROMPT[:8], 2, 3]))
    assert session.cache.allocator.available == available - 2
    assert parent.blocks[:2] == child.blocks[:2]


def test_a_prefix_outlives_the_sequence_that_computed_it(session: Session) -> None:
    first = session.sequence([*PROMPT, 50, 51])
    session.prefill([first])
    second = session.fork(first)
    session.truncate(second, 8)
    session.release(first)
    other = session.sequence([60] * 20)  # takes what is free, were it free
    session.prefill([other])
    logits = session.step([SequenceStep(second, (33, 34), logits=2)])
    same(logits[0], reference_logits([*PROMPT[:8], 33]))
    same(logits[1], reference_logits([*PROMPT[:8], 33, 34]))


def test_a_truncated_fork_does_not_write_into_its_parent(session: Session) -> None:
    parent = session.sequence(PROMPT)
    session.prefill([parent])
    child = session.fork(parent)
    session.truncate(child, 6)  # in the middle of a block that is full in the parent
    logits = session.step([SequenceStep(child, (40, 41, 42))])
    same(logits[0], reference_logits([*PROMPT[:6], 40, 41, 42]))
    same(session.decode([parent], [12])[0], reference_logits([*PROMPT, 12]))


def test_what_is_not_cached_is_not_shared(session: Session) -> None:
    parent = session.sequence(PROMPT)
    session.step([SequenceStep(parent, compute=5, logits=0)])
    parent.blocks += session.cache.allocator.allocate(1)  # as a failed step leaves it
    child = session.fork(parent)
    assert (len(child.blocks), child.cached, child.tokens) == (2, 5, PROMPT)
    logits = session.prefill([child, parent])
    same(logits[0], reference_logits(PROMPT))
    same(logits[1], reference_logits(PROMPT))


def test_no_block_for_a_copy_changes_nothing(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=4)
    parent = session.sequence(PROMPT)
    session.prefill([parent])
    child = session.fork(parent)
    before = state(parent), state(child)
    with pytest.raises(CapacityError, match="1 blocks for 2 sequences"):
        session.decode([parent, child], [1, 2])
    with pytest.raises(CapacityError, match="1 blocks for 1 sequences"):
        session.decode([child], [2])
    assert (state(parent), state(child)) == before
    session.release(child)
    same(session.decode([parent], [1])[0], reference_logits([*PROMPT, 1]))
    assert parent.blocks == before[0][1]  # its only owner writes in place


@pytest.mark.parametrize("seed", range(6))
def test_random_families(toy_path: Path, seed: int) -> None:
    """Whatever is forked, written, cut and released: logits are right and no block is lost."""
    chance = random.Random(seed)
    session = glmc_runtime.load(toy_path, kv_blocks=30)
    living: list[Sequence] = []
    refused = 0
    for _ in range(120):
        action = chance.choice(("new", "fork", "fork", "step", "step", "step", "cut", "release"))
        if action == "new" or not living:
            size = chance.randint(1, 12)
            living.append(session.sequence([chance.randrange(VOCABULARY) for _ in range(size)]))
        elif action == "fork" and len(living) < 12:
            living.append(session.fork(chance.choice(living)))
        elif action == "cut":
            sequence = chance.choice(living)
            session.truncate(sequence, chance.randint(0, len(sequence)))
        elif action == "release":
            session.release(living.pop(chance.randrange(len(living))))
        else:
            parts = [
                SequenceStep(
                    sequence, [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 5))]
                )
                for sequence in chance.sample(living, chance.randint(1, min(4, len(living))))
                if len(sequence) < MAX_CONTEXT - 5
            ]
            refused += _step(session, parts, living)
        _require_sound(session, living)
    assert refused < 60
    for sequence in living:
        session.release(sequence)
    assert session.cache.allocator.available == session.cache.allocator.usable


def _step(session: Session, parts: list[SequenceStep], living: list[Sequence]) -> int:
    if not parts:
        return 0
    before = [state(sequence) for sequence in living]
    try:
        logits = session.step(parts)
    except CapacityError:
        assert [state(sequence) for sequence in living] == before
        return 1
    for row, part in zip(logits, parts, strict=True):
        same(row, reference_logits(part.sequence.tokens))
    return 0


def _require_sound(session: Session, living: list[Sequence]) -> None:
    owners = Counter(block for sequence in living for block in sequence.blocks)
    allocator = session.cache.allocator
    assert allocator.available == allocator.usable - len(owners)
    assert all(allocator.owners(block) == count for block, count in owners.items())
    for sequence in living:
        assert len(sequence.blocks) == -(-sequence.cached // BLOCK_SIZE)
