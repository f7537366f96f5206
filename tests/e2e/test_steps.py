"""Mixed, scored, forked and truncated steps of the shipped mixture against plain ones, float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.generate.session import Session
from tests.e2e.build import PLACES, Builder, Place
from tests.e2e.reference import load_eager
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
MODEL = Path(__file__).parents[2] / "models" / "tiny-moe"
SMALL = {"prefill_buckets": (4, 16, 32), "decode_buckets": (1, 4, 8), "max_context": 128}
TEXTS = [[40, 50, 60, 70, 80], list(range(100, 137)), [33] * 3 + [44] * 15]
DRAFT = [500, 600, 700, 800]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(MODEL, tmp_path_factory.mktemp("steps"))


# What the profiles differ in is the same for every kind of step; test_same_answers.py has them all.
@pytest.fixture(scope="module", params=thinned(PLACES, PLACES[2:]), ids=lambda place: place.name)
def session(request: pytest.FixtureRequest, builder: Builder) -> Session:
    place: Place = request.param
    return builder.session(place, "float32", **SMALL)


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    """Per text, the logits of Hugging Face's eager code after each token and draft."""
    model = load_eager(MODEL, torch.float32)
    return [model(torch.tensor([text + DRAFT])).logits[0] for text in TEXTS]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_prompts_are_scored(session: Session, expected: list[Tensor]) -> None:
    """Every token of every prompt: pieces in the prefill plan and in the decode plan."""
    sequences = [session.sequence(text) for text in TEXTS]
    logits = session.step([SequenceStep(one, logits=len(one)) for one in sequences])
    wanted = [rows[: len(text)] for rows, text in zip(expected, TEXTS, strict=True)]
    same(logits, torch.cat(wanted))
    again = [session.sequence(text) for text in TEXTS]
    logits = session.step([SequenceStep(one, logits=3) for one in again])
    same(logits, torch.cat([rows[-3:] for rows in wanted]))
    for sequence in (*sequences, *again):
        session.release(sequence)


def test_a_prompt_in_chunks_beside_running_texts(session: Session, expected: list[Tensor]) -> None:
    one, long, two = (session.sequence(text) for text in TEXTS)
    logits = session.prefill([one, two])
    same(logits, torch.stack([expected[0][4], expected[2][17]]))
    for step in range(3):
        token = DRAFT[step]
        parts = [
            SequenceStep(one, (token,)),
            SequenceStep(long, compute=11, logits=0),
            SequenceStep(two, (token,)),
        ]
        logits = session.step(parts)
        same(logits, torch.stack([expected[0][5 + step], expected[2][18 + step]]))
    same(session.step([SequenceStep(long)])[0], expected[1][36])
    for sequence in (one, long, two):
        session.release(sequence)


def test_drafts_forks_and_cuts(session: Session, expected: list[Tensor]) -> None:
    sequences = [session.sequence(text) for text in TEXTS[:2]]
    session.prefill(sequences)
    forks = [session.fork(one) for one in sequences]
    rejected = session.step([SequenceStep(one, [9, 8, 7], logits=3) for one in forks])
    assert rejected.shape[0] == 6
    for fork, text in zip(forks, TEXTS, strict=False):
        session.truncate(fork, len(text))
    for family in (sequences, forks):
        logits = session.step([SequenceStep(one, DRAFT, logits=4) for one in family])
        wanted = [rows[len(text) :] for rows, text in zip(expected, TEXTS[:2], strict=False)]
        same(logits, torch.cat(wanted))
    for sequence in (*sequences, *forks):
        session.release(sequence)
    assert session.cache.allocator.available == session.cache.allocator.usable
