"""The benchmark of timelines, on a CPU: it says nothing of a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from bench.gpu import timeline
from tests.runtime.toy import write_toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(timeline, "CONTEXT", 6)
    return write_toy(tmp_path / "toy", greedy=True)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_batch_is_a_line_and_its_file_is_whole(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(toy), "--batches", "1,3", "--steps", "3", "--rounds", "2", "--out", str(tmp_path)]
    assert timeline.main(words) == 0
    head, one, three = lines(capsys.readouterr().out)
    assert head["device"] == "cpu"
    calls = len(glmc_runtime.load(toy).artifact.plans[timeline.DECODE.key].calls)
    for row, batch in ((one, 1), (three, 3)):
        assert (row["batch"], row["attribution"], row["wrong"]) == (batch, "exact", {})
        assert (row["calls"], row["replayed"], row["unknown_ms"]) == (calls, 0, 0)
        assert row["without_kernels"] == {"prefill": [], "decode": []}
        assert row["steps"] == 3 + timeline.WARM + 1  # the last one is enqueued and not read
        assert len(row["all_ms"]) == 4
        assert 0 < row["device_ms"] < row["timed_ms"]
    assert (tmp_path / "timeline-3.json").exists()


def test_a_call_that_is_missing_or_there_twice_is_wrong(toy: Path, tmp_path: Path) -> None:
    session, file = glmc_runtime.load(toy), tmp_path / "t.json"
    timeline.decode_times(session, 1, 2, file)
    data = json.loads(file.read_text())
    calls = [event for event in data["traceEvents"] if event.get("cat") == "call"]
    last = [event for event in calls if event["args"]["step"] == 3]
    last[2]["args"]["call"] = 1
    file.write_text(json.dumps(data))
    assert timeline.checked(session, file)["wrong"] == {3: "without calls [2], twice [1]"}


def test_a_file_that_is_not_whole_ends_in_an_error(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(toy), "--batches", "1", "--steps", "1", "--rounds", "1"]
    assert timeline.main(words) == 0
    monkeypatch.setattr(timeline, "_difference", lambda found, expected: "without calls [0]")
    assert timeline.main(words) == 1
