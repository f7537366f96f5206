"""Blocks after a rest and after either side, and the readings of the card within them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu import power
from bench.gpu.power import Block, Reading
from bench.gpu.vllm_side import SITE, VLLM

pytestmark = pytest.mark.usefixtures("shared_captures")


class Answers:
    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None: ...

    def ask(self, order: str, **given: Any) -> dict[str, Any]:
        assert order == "decode" and given["steps"] == power.STEPS
        return {"ms": 6.0}


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setenv(SITE, str(tmp_path))
    monkeypatch.setattr(power, "vllm_side", lambda *_: Answers())


@pytest.mark.usefixtures("peer")
def test_a_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "p.json"
    words = ["--quick", "--target", "cpu", "--batches", "2", "--rounds", "1"]
    assert power.main([*words, "--output", str(output)]) == 0
    data = json.loads(output.read_text())
    assert data["command"].startswith("python -m bench.gpu.power --quick")
    places = [(row["side"], row["after"]) for row in data["rows"]]
    befores = (power.GLMC, power.REST, VLLM)
    assert places == [(side, before) for side in (power.GLMC, VLLM) for before in befores]
    assert all(len(row["all_ms"]) == 1 and row["all_ms"][0] > 0 for row in data["rows"])
    assert f"| 2 | {VLLM} | rest | 6.00 | 6.00 to 6.00 |  |  |" in capsys.readouterr().out


def test_each_side_is_measured_after_each_of_the_three(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(power, "sleep", lambda seconds: events.append(seconds))
    blocks: Any = SimpleNamespace(
        ours=lambda: events.append("ours") or 4.0, theirs=lambda: events.append("theirs") or 6.0
    )
    done = power.blocks_in_turn(blocks, 2, 0.5)
    turn = [0.5, "ours", "ours", "theirs", 0.5, "theirs", "theirs", "ours"]
    assert events == turn * 3  # the first round does not count
    assert [(block.side, block.after, block.ms) for block in done] == [
        (power.GLMC, power.REST, 4.0),
        (power.GLMC, power.GLMC, 4.0),
        (VLLM, power.GLMC, 6.0),
        (VLLM, power.REST, 6.0),
        (VLLM, VLLM, 6.0),
        (power.GLMC, VLLM, 4.0),
    ] * 2
    assert all(block.begin <= block.end for block in done)


def test_readings_are_those_within_the_blocks_of_a_row() -> None:
    blocks = [Block(power.GLMC, power.REST, 8.0, 10, 11), Block(VLLM, power.GLMC, 9.0, 11.5, 12)]
    blocks.append(Block(power.GLMC, power.REST, 8.2, 20, 21))
    found = [
        (9, 300, 90),
        (10.5, 1980, 600),
        (11.2, 1700, 500),
        (11.7, 1500, 695),
        (20.1, 1900, 640),
    ]
    ours, theirs = power.rows_of(64, blocks, [Reading(*each) for each in found])
    assert (ours["all_ms"], ours["clock"], ours["watts"]) == ([8.0, 8.2], [1980, 1900], [600, 640])
    assert (theirs["all_ms"], theirs["clock"], theirs["watts"]) == ([9.0], [1500], [695])
    rows = power.table_of([{"model": "a", **each} for each in (ours, theirs)]).rows
    assert rows[0] == ("a", "64", "glmc", "rest", "8.10", "8.00 to 8.20", "1900 to 1980", "640")


def test_lines_of_the_program() -> None:
    line = "2026/12/02 10:03:38.250, 1980, 690.12\n"
    at = datetime(2026, 12, 2, 10, 3, 38, 250_000).timestamp()
    assert power.readings_of(line + "2026/12/02 10:0") == [Reading(at, 1980, 690.12)]
    with pytest.raises(ValueError, match=r"and said 'Field .* is not a valid field to query\.'"):
        power.readings_of('Field "power.draw.instant" is not a valid field to query.\n')


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script in the place of nvidia-smi."""

    def put(script: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(power, "_PROGRAM", str(path))

    card = SimpleNamespace(uuid="12-ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    return put


def test_the_program_reads_until_the_end(tmp_path: Path, program: Callable[[str], None]) -> None:
    """It is asked once, then to go on, which this one does for a minute unless it is ended."""
    line = "2026/12/02 10:03:38.250, 1980, 690.12"
    program(f'echo "$@" >> {tmp_path}/asked; echo {line}; case "$*" in *loop*) exec sleep 60; esac')
    path = tmp_path / "readings"
    with power.written_readings(path, quick=False):
        while not path.read_text().endswith("\n"):
            sleep(0.01)
    assert path.read_text() == f"{line}\n"
    once, on = (tmp_path / "asked").read_text().splitlines()
    assert on == f"{once} --loop-ms=20" and once.startswith("--id=GPU-12-ab --query-gpu=timestamp")


def test_a_program_without_readings_ends_the_run_before_it_begins(
    tmp_path: Path, program: Callable[[str], None]
) -> None:
    program("echo no driver >&2; exit 9")
    with (
        pytest.raises(ValueError, match="gives no reading: no driver"),
        power.written_readings(tmp_path / "readings", quick=False),
    ):
        pytest.fail("it began")


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize(
    ("device", "program", "said"),
    [
        (False, "/bin/nvidia-smi", "torch sees no CUDA device: only --quick runs here"),
        (True, None, "nvidia-smi, which reads clock and watts, is not on PATH"),
    ],
)
def test_what_is_lacking_is_said(
    device: bool,
    program: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(power.shutil, "which", lambda _: program)
    with pytest.raises(SystemExit):
        power.main(["--output", "p.json"])
    assert said in capsys.readouterr().err


def test_without_a_peer_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SITE, raising=False)
    with pytest.raises(SystemExit):
        power.main(["--quick", "--output", "p.json"])
    assert f"{SITE} is not set" in capsys.readouterr().err
