"""Tokens of SGLang over plans, beside Hugging Face and SGLang's own classes: a small run."""

from __future__ import annotations

import pytest

from tests.engines.equality.measure import names, rows, subjects
from tests.engines.equality.report import Row


@pytest.fixture(scope="module")
def found() -> list[Row]:
    """A shipped model and a random config whose sizes hardly divide."""
    odd = next(name for name in names() if "glm4_moe" in name)
    return list(rows("sglang", subjects(["tiny-moe", odd], texts=14, tokens=48)))


def test_all_tokens_are_right_whatever_the_scheduler_did(found: list[Row]) -> None:
    assert [fault for row in found for fault in row.faults] == []


def test_requests_were_taken_back_and_prefixes_found(found: list[Row]) -> None:
    for row in found:
        assert row.ours.engine["preemptions"] > 0
        assert row.ours.engine["cached"] > 0


def test_each_step_was_a_replay(found: list[Row]) -> None:
    for row in found:
        counts = row.ours.ours
        assert counts["replays"] == counts["steps"] == row.ours.engine["steps"] > 0
