"""Device graphs of prefill in a session that was loaded with them; without, there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine import loaded as loaded_module
from tests.runtime.replay.test_phase import FakeGraphs
from tests.runtime.toy import reference_logits

PROMPTS = ([3, 14, 15, 9, 2], [6, 5, 3])


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch, **options: bool) -> tuple[object, ...]:
    graphs = FakeGraphs()
    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: graphs)
    return glmc_runtime.load(path, **options), graphs


def test_prompts_run_in_graphs_between_attentions(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, graphs = loaded(toy_path, monkeypatch, prefill_graphs=True)
    plain, without = loaded(toy_path, monkeypatch)
    assert len(graphs.captured) > len(without.captured) > 0
    for each, count in ((session, graphs), (plain, without)):
        count.replays = 0
        logits = each.prefill([each.sequence(list(prompt)) for prompt in PROMPTS])
        expected = torch.stack([reference_logits(list(prompt)) for prompt in PROMPTS])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert graphs.replays > 0 == without.replays


def test_larger_steps_have_no_graphs(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_module, "CAPTURED_TOKENS", 0)
    _, graphs = loaded(toy_path, monkeypatch, prefill_graphs=True)
    _, without = loaded(toy_path, monkeypatch)
    assert graphs.captured == without.captured


def test_nothing_is_left_in_the_cache(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written while graphs are captured is in the scratch block."""
    session, _ = loaded(toy_path, monkeypatch, prefill_graphs=True)
    for name in ("key", "value"):
        assert not session.cache.tensor(name, 0)[1:].any()
