"""``glmc timeline`` on a real trace: tables, Markdown, JSON, CSV, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.observe.timeline.sample import VLLM
from tests.support.command import command_of, require_refusal


def test_one_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    done = command_of(capsys)("timeline", VLLM)
    assert done.status == 0
    for text in (
        "torch.profiler, on NVIDIA H200",
        "decode of 1 sequence, 1 token: median step of 2, the first 1 left out as warm-up; they ",
        "Where the time of a step goes",
        "host prepares",
        "moe layers 1..11",
    ):
        assert text in done.out


def test_two_timelines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copy(VLLM, tmp_path / "b.gz")
    done = command_of(capsys)("timeline", VLLM, other, "--steps", "0:1")
    assert done.status == 0
    for text in ("Three levers", "operator level", "communication", "nothing differs"):
        assert text in done.out
    assert "What A pays that B does not" not in done.out
    assert "Largest differences" not in done.out
    assert f"B  {other}: torch.profiler" in done.out


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    out = command_of(capsys)("timeline", VLLM, "--markdown").out.splitlines()
    assert "### Bubbles" in out
    assert "| while | us | share |" in out and "| --- | ---: | ---: |" in out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = command_of(capsys)
    one = json.loads(run("timeline", VLLM, "--json").out)
    assert one["format"] == 1 and one["timeline"]["source"] == "torch.profiler"
    totals = one["totals"]
    parts = totals["operators_us"] + totals["bubbles_us"] + totals["communication_us"]
    assert parts == pytest.approx(totals["time_us"])
    two = json.loads(run("timeline", VLLM, VLLM, "--json").out)
    assert [lever["name"] for lever in two["levers"]][1] == "bubbles"
    assert {row["aligned"] for row in two["rows"]} == {"op", "name"}


def test_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = command_of(capsys), tmp_path / "page.html"
    out = run("timeline", VLLM, "--page", page).out
    assert "Where the time of a step goes" in out and out.startswith(f"{page} written\n")
    assert "Timeline of vllm_decode.json.gz" in page.read_text()
    assert run("timeline", VLLM, VLLM, "--page", page).status == 0, "it is one of ours"
    assert "Two timelines" in page.read_text()
    page.write_text("a letter")
    refused = run("timeline", VLLM, "--page", page)
    require_refusal(refused, "GLMC-1001", "no page of ours")
    require_refusal(run("timeline", VLLM, "--page", page, "--json"), "GLMC-1001", "two answers")


def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = command_of(capsys), tmp_path / "rows.csv"
    assert run("timeline", VLLM, "--csv", path, "-q").status == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["launches"]) for row in rows) == 289
    assert {row["layer"] for row in rows} == {"", *map(str, range(12))}
    assert run("timeline", VLLM, VLLM, "--csv", path).status == 0
    assert path.read_text().startswith("aligned_by,name,a_launches,a_kernels_us,a_device_us,")


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, code = command_of(capsys), "GLMC-1001"
    require_refusal(run("timeline", VLLM, "--steps", "2"), code, "is no slice", "--steps 3:4")
    require_refusal(run("timeline", VLLM, "--phase", "prefill"), code, "no step of phase 'prefill'")
    require_refusal(run("timeline", VLLM, "--json", "--markdown"), code, "two answers")
    require_refusal(run("timeline", tmp_path / "none"), code, "can't be read")
    place = tmp_path / "no" / "x.csv"
    require_refusal(run("timeline", VLLM, "--json", "--csv", place), code, "can't be written")
