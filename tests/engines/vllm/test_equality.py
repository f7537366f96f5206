"""A small run of the comparison of tokens (docs/engines.md): a shipped model, and one with sizes
that are no powers of two."""

from __future__ import annotations

import pytest

from tests.engines.equality.measure import rows, subjects
from tests.engines.equality.report import Row
from tests.engines.vllm.forks import Forks

NAMES = ("tiny-moe", "2-glm4-q9-kv3")


@pytest.fixture(scope="module")
def found(forks: Forks) -> dict[str, Row]:
    made = rows(
        "vllm",
        subjects(NAMES, texts=14, tokens=48),
        lambda *words: forks.begin(*words).wait(),
    )
    return {row.subject.name: row for row in made}


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_hugging_face_and_of_vllm_alone(found: dict[str, Row], name: str) -> None:
    row = found[name]
    assert row.faults == [], str(row)
    assert row.ours.engine["preemptions"] > 0
    assert row.ours.engine["cached"] > 0
    assert row.ours.ours["replays"] == row.ours.ours["steps"] > 0
    assert row.hugging_face.compared > 1000
