"""Prompts short and long: what is taken, what is refused, and what a chunk hands on."""

from __future__ import annotations

from array import array
from functools import partial
from typing import Any

import pytest
import torch

from glmc_runtime.engine.sequences import SequenceStep, new_sequence, scheduled_tokens
from glmc_runtime.errors import RequestError
from glmc_runtime.replay.step import Step

VOCABULARY = 1000
LENGTHS = pytest.mark.parametrize("length", [3, 300])


@LENGTHS
@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        torch.tensor,
        lambda ids: list(torch.tensor(ids)),
        lambda ids: [float(token) for token in ids],
        *(partial(array, kind) for kind in "iBHqQd"),
    ],
    ids=["list", "tuple", "tensor", "tensors", "floats", *"iBHqQd"],
)
def test_tokens_become_plain_integers(kind: Any, length: int) -> None:
    ids = [number * 7 % 250 for number in range(length)]
    sequence = new_sequence(kind(ids), 512, VOCABULARY)
    assert sequence.tokens == ids and {type(token) for token in sequence.tokens} == {int}
    ids.append(5)
    assert len(sequence) == length


@LENGTHS
@pytest.mark.parametrize("wrong", [-1, VOCABULARY, 1 << 70, -(1 << 70)])
@pytest.mark.parametrize("place", [0, -1])
def test_a_token_outside_of_the_vocabulary_is_refused(length: int, wrong: int, place: int) -> None:
    ids = [1] * length
    ids[place] = wrong
    with pytest.raises(RequestError, match="not in the vocabulary") as caught:
        new_sequence(ids, 512, VOCABULARY)
    assert caught.value.found == str(wrong)
    sequence = new_sequence([1], 512, VOCABULARY)
    with pytest.raises(RequestError, match="not in the vocabulary"):
        scheduled_tokens(SequenceStep(sequence, ids), 512, VOCABULARY)
    new_sequence([0, VOCABULARY - 1] * (length // 2), 512, VOCABULARY)


@LENGTHS
def test_a_chunk_has_the_tokens_that_are_not_cached(length: int) -> None:
    ids = [number % 250 for number in range(length)]
    sequence = new_sequence(ids, 512, VOCABULARY)
    sequence.cached = 2
    assert isinstance(scheduled_tokens(SequenceStep(sequence), 512, VOCABULARY).tokens, array) == (
        length > 3
    )
    chunk = scheduled_tokens(SequenceStep(sequence, (7, 8)), 512, VOCABULARY)
    assert list(chunk.tokens) == [*ids[2:], 7, 8] and chunk.start == 2
    chunk = scheduled_tokens(SequenceStep(sequence, (7, 8), compute=1), 512, VOCABULARY)
    assert list(chunk.tokens) == ids[2:3]
    assert sequence.tokens == ids


def test_a_default_device_of_the_program_changes_nothing() -> None:
    with torch.device("meta"):
        sequence = new_sequence(list(range(200)), 512, VOCABULARY)
        chunk = scheduled_tokens(SequenceStep(sequence), 512, VOCABULARY)._replace(
            blocks=list(range(3, 16))
        )
        step = Step([chunk], 200, 1, 16)
        assert list(step.column("positions")) == list(range(200))
        assert list(step.column("slot_mapping")) == list(range(48, 248))
