"""The document and the picture of ours beside vLLM, from results of few rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import beside_doc

COMMON = {"model": "9b", "what": "beside decode", "size": 1, "context": 1024, "floor_ms": 3.9}
OURS = {**COMMON, "peer": "glmc", "ms": 4.8, "share": 0.8, "ratio": 1.25, "ratio_low": 1.2,
        "ratio_high": 1.3, "bars": True}  # fmt: skip
RUN: dict[str, Any] = {
    "machine": {"device": "a card", "bandwidth": 4.4e12, "rate": 7.8e14},
    "measurements": [{**COMMON, "peer": "vllm", "ms": 6.0}, OURS],
    "vllm_start_s": {"9b": 75.4},
    "glmc_start_s": {"9b": 16.2},
    "command": "python -m bench.gpu.h200 --peers vllm",
    "errors": [],
}


def written(folder: Path, *runs: dict[str, Any]) -> list[str]:
    paths = [folder / f"{place}.json" for place in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run), encoding="utf-8")
    return [str(path) for path in paths]


def later() -> dict[str, Any]:
    run = copy.deepcopy(RUN)
    run["measurements"][1] |= {"ms": 4.0, "ratio": 1.5, "ratio_low": 1.5, "ratio_high": 1.5}
    return run


def test_the_later_of_two_runs_is_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before {beside_doc.FIRST_MARK} old {beside_doc.LAST_MARK} after")
    assert beside_doc.main([*written(tmp_path, RUN, later()), "--into", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before") and text.endswith("after") and "old" not in text
    assert "| **1.50** | 1.50 to 1.50 | 3.90 | 80% | 1.40 | met |" in text and "1.25" not in text
    assert "Of 1 rows 1 have a bar for the ratio, of which 1 are met" in text
    assert text.count("| 75 s | 16 s |") == 2


def test_a_row_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, later())
    assert beside_doc.main([*paths, "--without", "9b decode 1"]) == 0
    assert "Of 0 rows" in capsys.readouterr().out
    assert beside_doc.main([*paths, "--without", "9b decode 2"]) == 1
    assert "no row 9b decode 2 in these results" in capsys.readouterr().err


def test_a_document_without_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "page.md"
    document.write_text("nothing")
    assert beside_doc.main([*written(tmp_path, RUN), "--into", str(document)]) == 1
    assert "has no '<!-- beside vllm -->'" in capsys.readouterr().err
    assert document.read_text() == "nothing"


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "images" / "beside.png"
    assert beside_doc.main([*written(tmp_path, RUN), "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    nothing = {**RUN, "measurements": []}
    assert beside_doc.main([*written(tmp_path, nothing), "--picture", str(picture)]) == 1
    assert "no rows beside vLLM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({}, "decode 1"),
        ({"size": 16, "context": 8192}, "decode 16 at 8 K"),
        ({"what": "beside prefill", "size": 2048}, "first token of 2048"),
        ({"what": "beside ragged", "prompts": 16}, "16 prompts"),
    ],
)
def test_labels(change: dict[str, Any], label: str) -> None:
    assert beside_doc._label({**OURS, **change}) == label
