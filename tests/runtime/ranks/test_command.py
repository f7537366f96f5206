"""The commands run an artifact of several ranks as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc_runtime.cli import main
from glmc_runtime.kernels import interpreter
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.ranks.test_failures import children
from tests.runtime.toy import reference_greedy

pytestmark = pytest.mark.long


def test_run_starts_the_ranks_and_ends_them(
    ranks_path: Path,
    kernels: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(kernels))
    words = ["run", str(ranks_path), "--token-ids", "7,3,9", "--max-new-tokens", "4"]
    assert main([*words, "--ignore-eos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["completions"][0]["tokens"] == reference_greedy([7, 3, 9], 4)
    assert {row["phase"] for row in found["statistics"]["buckets"]} == {"prefill", "decode"}
    assert not children()


def test_a_timeline_has_all_ranks(
    ranks_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(kernels))
    file = tmp_path / "x.json"
    words = ["run", str(ranks_path), "--token-ids", "7,3", "--max-new-tokens", "3", "--ignore-eos"]
    assert main([*words, "--timeline", str(file)]) == 0
    events = [row for row in json.loads(file.read_text())["traceEvents"] if row["ph"] == "X"]
    begins = {
        (row["args"]["step"], row["args"]["rank"]): row["ts"]
        for row in events
        if row["cat"] == "step"
    }
    assert begins.keys() == {(step, rank) for step in range(3) for rank in range(2)}
    # By one clock: no rank begins a step before the other has begun the one before it.
    for step in (1, 2):
        assert min(begins[step, rank] for rank in range(2)) > max(
            begins[step - 1, rank] for rank in range(2)
        )
    assert not children()


@pytest.mark.usefixtures("no_process")
def test_ranks_on_cards_are_refused_before_anything_starts(
    ranks_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = load_artifact(ranks_path, rank=None).manifest.target
    monkeypatch.setattr(interpreter, "TARGET", target)
    monkeypatch.setattr(interpreter, "interpreting", lambda: False)
    words = ["run", str(ranks_path), "--token-ids", "7", "--timeline", str(tmp_path / "x.json")]
    assert main(words) == 2
    assert "is timed by the host, and these are on cards" in capsys.readouterr().err
