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


def contexts() -> list[dict[str, Any]]:
    """The rows of one decode at two contexts, and one prefill with and without device graphs."""
    sides = [{**OURS, "model": "air", "size": 16}, {**COMMON, "model": "air", "size": 16}]
    sides[1]["peer"] = "vllm"
    decode = [{**each, "context": context} for context in (768, 8192) for each in sides]
    first = {**OURS, "what": "beside prefill", "size": 512, "context": None}
    return [*decode, first, {**first, "prefill_graphs": False}]


def test_a_row_of_several_contexts_is_named_with_its_own() -> None:
    items = contexts()
    assert beside_doc.without(items, ["air decode 16 8192"]) == [*items[:2], *items[4:]]
    with pytest.raises(
        ValueError, match="any of these rows: air decode 16 768, air decode 16 8192"
    ):
        beside_doc.without(items, ["air decode 16"])
    with pytest.raises(ValueError, match="no row air decode 16 1024 in these results"):
        beside_doc.without(items, ["air decode 16 1024"])
    with pytest.raises(ValueError, match="no row air decode 1 in these results"):
        beside_doc.without(items, ["air decode 1"])  # no beginning of a number


def test_the_order_of_rows_to_leave_out_does_not_matter() -> None:
    rows = ["air decode 16 768", "air decode 16"]
    for given in (rows, rows[::-1]):  # once one is gone the other name would be clear
        with pytest.raises(ValueError, match="any of these rows"):
            beside_doc.without(contexts(), given)


def test_rows_with_and_without_device_graphs_have_names() -> None:
    items = contexts()
    assert beside_doc.without(items, ["9b prefill 512"]) == [*items[:4], items[5]]
    assert beside_doc.without(items, ["9b prefill 512 no-graphs"]) == items[:5]


@pytest.mark.parametrize(
    "row", ["9b 512", "9b decode", "10b decode 1", "9b decoding 1", "9b decode 1 a", ""]
)
def test_what_is_no_row_ends_the_command(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        beside_doc.main([*written(tmp_path, RUN), "--without", row])
    error = capsys.readouterr().err
    assert f"'{row}' is no row" in error and "such as '32b prefill 512'" in error


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


def test_experts_stand_in_a_table_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy.deepcopy(RUN)
    for batch, read in ((16, 80.04), (1, 8.0)):
        each = {**COMMON, "model": "air", "size": batch, "experts_read": read}
        each |= {"experts_expected": 82.4}
        run["measurements"] += [{**OURS, **each}, {**each, "peer": "vllm", "ms": 6.0}]
    assert beside_doc.main(written(tmp_path, run)) == 0
    text = capsys.readouterr().out
    table = text.partition("### Distinct experts")[2].partition("###")[0]
    name = "GLM-4.5-Air, 12 of 46 layers"
    assert f"| {name} | 1 | 1024 | 8.0 | 82.4 | 80% | 80% |\n| {name} | 16 |" in table
    assert "| 80.0 | 82.4 | 80% | 78% |" in table
    assert beside_doc.main(written(tmp_path, RUN)) == 0
    assert "experts" not in capsys.readouterr().out
