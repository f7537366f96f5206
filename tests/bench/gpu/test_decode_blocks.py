"""Blocks of both sides: when the card rests, and what each is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu import beside_vllm, decode_blocks
from bench.gpu.gpu_results import Results
from bench.gpu.vllm_side import Sizes
from bench.models import gpu_model


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens to the card, in its order."""
    events: list[Any] = []
    double = SimpleNamespace(
        filled=lambda _model, _session, batch, context: [f"{batch} at {context}"],
        greedy_times=lambda _session, sequences, plan: events.append(("ours", plan.steps)) or [4.0],
        released=lambda _session, sequences: events.append(("released", *sequences)),
    )
    monkeypatch.setattr(decode_blocks, "gpu_ours", double)
    monkeypatch.setattr(decode_blocks, "sleep", lambda seconds: events.append(seconds))
    return events


class Sides:
    """A session and an engine that only say what they were asked."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events

    def truncate(self, sequence: str, tokens: int) -> None:
        self.events.append((sequence, tokens))

    def ask(self, order: str, **given: Any) -> dict[str, float]:
        self.events.append((order, given))
        return {"ms": 6.0}


def test_a_block_of_each_side(said: list[Any]) -> None:
    sides: Any = Sides(said)
    given = {"batch": 2, "context": 100, "steps": 12, "rest": 0.5}
    with decode_blocks.decode_blocks(gpu_model("9b", True), sides, sides, **given) as blocks:
        assert (blocks.ours(), blocks.theirs()) == (4.0, 6.0)
    asked = {"batch": 2, "context": 100, "steps": 12, "seed": 2}
    assert said == [
        *(0.5, ("2 at 90", 90), ("ours", 12)),
        *(0.5, ("decode", asked)),
        ("released", "2 at 90"),
    ]


@pytest.mark.parametrize(("batch", "seconds"), [(1, 0.0), (63, 0.0), (64, 1.0), (256, 1.0)])
def test_the_card_rests_before_both_sides_of_many_sequences_alone(
    batch: int, seconds: float, said: list[Any], tmp_path: Path
) -> None:
    results, sides = Results(tmp_path / "r.json"), Sides(said)
    given: tuple[Any, ...] = (sides, sides, Sizes((batch,), (64,), 1024, rounds=1), batch)
    beside_vllm._decode(results, gpu_model("9b", True), *given)
    rests = [each for each in said if isinstance(each, float)]
    assert rests == [seconds] * 4  # of both sides in the round that counts and in the one before
    assert [item["rest_s"] for item in results.data["measurements"]] == [seconds] * 2
    assert decode_blocks.rest_before(batch, quick=True) == 0.0
