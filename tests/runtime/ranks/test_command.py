"""The commands run an artifact of several ranks as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc_runtime.cli import main
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


def test_a_timeline_is_refused_before_anything_starts(
    ranks_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(ranks_path), "--token-ids", "7", "--timeline", str(tmp_path / "x.json")]
    assert main(words) == 2
    assert "in other processes than the profiler" in capsys.readouterr().err
