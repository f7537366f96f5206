"""Greedy tokens of a dealt model are Hugging Face's; the matrix is ``tests.e2e.many_cards``."""

from __future__ import annotations

import pytest
import torch

from tests.e2e.build import CHUNKED, CPU, EMULATED, Place
from tests.e2e.grid import MAX_CONTEXT, write_checkpoint
from tests.e2e.many_cards import Subject, compared, drawn
from tests.e2e.ranks import RankedBuilder
from tests.support.thinned import crossed

pytestmark = pytest.mark.long

# Five KV heads, and eight experts with groups: neither divides by what they are dealt to.
DENSE, MIXTURE = drawn(12)[4], drawn(12)[3]
TEXTS, TOKENS = 5, 20


@pytest.fixture(scope="module", params=[DENSE, MIXTURE], ids=lambda each: each.name)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Subject, RankedBuilder]:
    folder = tmp_path_factory.mktemp("many_cards")
    checkpoint = write_checkpoint(request.param, folder / "checkpoint", torch.float32)
    subject = Subject.of(
        request.param.name, checkpoint, request.param.routed, texts=TEXTS, tokens=TOKENS
    )
    common = {**CHUNKED, "block_size": 16, "max_context": MAX_CONTEXT}
    return subject, RankedBuilder(checkpoint, folder / "made", common)


@pytest.mark.parametrize(
    ("place", "ranks"),
    crossed((CPU, *EMULATED), (2, 4, 8), quick=[(CPU, 4), (EMULATED[1], 2)]),
    ids=str,
)
def test_tokens_are_those_of_hugging_face(
    built: tuple[Subject, RankedBuilder], place: Place, ranks: int
) -> None:
    subject, builder = built
    for by_expert in (False, True) if subject.routed else (False,):
        outcome = compared(subject, builder, place, ranks, by_expert)
        assert outcome.differing == 0, f"{ranks} ranks, by expert: {by_expert}: {outcome}"
        assert outcome.compared > TEXTS * TOKENS / 2
