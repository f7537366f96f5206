"""``tune-collectives``: what it asks of the ranks, and what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.cli import main
from glmc_runtime.collectives import launch
from glmc_runtime.format.algorithms import Link
from glmc_runtime.format.collectives import (
    AlgorithmTable,
    Band,
    GroupKey,
    Origin,
    TableEntry,
    default_table,
)
from glmc_runtime.format.collectives_json import read_table, table_to_text

TABLE = AlgorithmTable(
    (
        TableEntry(
            GroupKey(4, "one-host", "bfloat16"),
            "tree",
            (Band(1 << 16, "one_shot"), Band(None, "two_shot")),
            Origin("measured", "2026-11-30T20:00Z", "2 cores"),
            (Link("messages", 120.0, 1500.0),),
        ),
    )
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def run_job(job: str, options: Any, ranks: int, **more: Any) -> str:
        calls.append({"job": job, "ranks": ranks, **options, **more})
        return table_to_text(TABLE)

    monkeypatch.setattr(launch, "run_job", run_job)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_the_table_is_printed_as_json(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune-collectives", "--ranks", "4", "--topology", "pcie"]) == 0
    assert read_table(capsys.readouterr().out.encode()) == TABLE
    (call,) = asked
    assert (call["ranks"], call["numerics"], call["previous"]) == (4, "tree", None)
    assert (call["backend"], call["topology"]) == ("gloo", "pcie")


def test_the_table_is_written_and_told(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.json"
    for _ in range(2):
        words = ["tune-collectives", "--ranks", "4", "--any-order", "--output", str(file)]
        assert main(words) == 0
    assert read_table(file.read_bytes()) == TABLE
    out = capsys.readouterr().out
    assert "4 ranks, one-host, bfloat16: one_shot, two_shot from 64.0 KiB (class: tree)" in out
    assert "messages: 120 us a step, 1.50 GB/s" in out and "measured 2026-11-30T20:00Z" in out
    assert [call["numerics"] for call in asked] == ["any", "any"]
    assert asked[0]["previous"] is None and read_table(asked[1]["previous"].encode()) == TABLE


def test_the_class_that_competes_is_asked_for(asked: list[dict[str, Any]]) -> None:
    words = ["tune-collectives", "--ranks", "4", "--backend", "nccl", "--rank-order"]
    assert main(words) == 0
    assert (asked[0]["numerics"], asked[0]["backend"]) == ("rank_order", "nccl")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--ranks", "4", "--any-order", "--rank-order"], "compete in one class"),
        (["--ranks", "1"], "at least two ranks"),
        (["--ranks", "65"], "--ranks from 2 to 64"),
        ([], "at least two ranks"),
        (["--ranks", "2", "--backend", "ncck"], "did you mean 'nccl'"),
    ],
)
def test_what_is_no_group(
    asked: list[dict[str, Any]], words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune-collectives", *words]) == 2
    assert code in capsys.readouterr().err and not asked


def test_a_file_that_is_no_table_is_not_written_over(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.json"
    file.write_text(json.dumps({"mine": 1}))
    assert main(["tune-collectives", "--ranks", "2", "--output", str(file)]) == 2
    assert "no table of collectives" in capsys.readouterr().err
    assert file.read_text() == json.dumps({"mine": 1}) and not asked


def test_under_torchrun_each_process_is_a_rank(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    texts: list[str | None] = [None, table_to_text(default_table("cpu", 3))]
    monkeypatch.setattr(launch, "joined_job", lambda *_: texts.pop(0))
    assert main(["tune-collectives"]) == 0 and not capsys.readouterr().out
    assert main(["tune-collectives", "--ranks", "3"]) == 0
    assert read_table(capsys.readouterr().out.encode()) == default_table("cpu", 3)
    assert main(["tune-collectives", "--ranks", "2"]) == 2
    assert "as many as torchrun started" in capsys.readouterr().err and not asked
