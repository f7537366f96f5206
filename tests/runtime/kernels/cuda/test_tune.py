"""tuning.tune_cuda keeps what is fast and right, and writes it as the runtime reads it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tuning import tunables_dense, tune_cuda
from tuning.tunable import Arguments, Tunable

OPTIONS = argparse.Namespace(quick=False, most=None, verbose=False, times=None)
CPU = torch.device("cpu")


def make(device: torch.device, generator: torch.Generator) -> Arguments:
    return {"x": torch.randn(4, generator=generator), "out": torch.full((4,), torch.nan)}


def tunable(*candidates: dict[str, Any], rows: int = 2) -> Tunable:
    return Tunable(
        kernel="double",
        key="4",
        rows=rows,
        dtype=torch.float32,
        bytes=10**9,
        make=make,
        reference=lambda arguments: {"out": 2 * arguments["x"].double()},
        candidates=lambda: candidates,
        library={"seconds": 9},
    )


def bind(arguments: Arguments) -> Callable[[], Any]:
    configuration = arguments["configuration"]
    if configuration.get("fails"):
        raise RuntimeError("out of resources")
    return partial(torch.mul, arguments["x"], configuration.get("factor", 2), out=arguments["out"])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings of ``double``; the time of a call is what its configuration says."""
    seen: dict[int, float] = {}

    def find(name: str) -> Callable[[Arguments], Callable[[], Any]]:
        def binder(arguments: Arguments) -> Callable[[], Any]:
            thunk = bind(arguments)
            seen[id(thunk)] = arguments["configuration"]["seconds"]
            return thunk

        return binder

    monkeypatch.setattr(tune_cuda, "find_binder", find)
    monkeypatch.setattr(tune_cuda, "graph_seconds", lambda thunks, *_: seen[id(thunks[0])])


def best(one: Tunable) -> tuple[Any, Any]:
    return tune_cuda.measure(one, OPTIONS, CPU, time.monotonic() + 60)


def test_the_fastest_that_is_right_wins(timed: None, capsys: pytest.CaptureFixture[str]) -> None:
    winner, library = best(
        tunable(
            {"seconds": 5},
            {"seconds": 3},
            {"seconds": 1, "factor": 2.1},
            {"seconds": 1, "factor": float("nan")},
            {"seconds": 0.5, "fails": True},
        )
    )
    assert winner.configuration == {"seconds": 3} and library.configuration == {"seconds": 9}
    printed = capsys.readouterr().out
    assert printed.count("WRONG") == 2 and "out of resources" in printed


def test_nothing_wins_where_nothing_is_right(timed: None) -> None:
    winner, library = best(tunable({"seconds": 5, "factor": 3}))
    assert winner.configuration == {"seconds": 9}
    assert best(tunable({"seconds": 9, "factor": 3}))[0].configuration == library.configuration


def test_the_time_of_each_candidate_is_kept(
    timed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPTIONS, "times", tmp_path / "times.jsonl")
    best(tunable({"seconds": 5e-6}, {"seconds": 1, "fails": True}))
    lines = [json.loads(line) for line in OPTIONS.times.read_text().splitlines()]
    assert [(line["us"], line["configuration"]["seconds"]) for line in lines] == [
        (5.0, 5e-6),
        (9e6, 9),
    ]
    assert lines[0].items() >= {"kernel": "double", "key": "4", "rows": 2}.items()


def test_tables_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for rows, device in ((16, "A"), (2, "A"), (16, "A")):
        configuration = {"seconds": rows}
        tune_cuda.write(path, device, tunable(rows=rows), configuration)
    content = json.loads(path.read_text())
    expected = {"2": {"seconds": 2}, "16": {"seconds": 16}}
    assert content == {"device": "A", "kernels": {"double": {"float32": {"4": expected}}}}
    assert list(content["kernels"]["double"]["float32"]["4"]) == ["2", "16"]
    tune_cuda.write(path, "B", tunable(), {"seconds": 1})
    assert json.loads(path.read_text())["device"] == "B"


def test_the_dense_layers_are_all_there() -> None:
    found = tunables_dense.tunables()
    assert {one.kernel for one in found} == {"linear", "linear_swiglu"}
    assert {one.rows for one in found} == {1, 2, 4, 8, 16, 32, 64}
    assert len({(one.kernel, one.key, one.rows) for one in found}) == len(found)
    assert all(3 <= len(tune_cuda.candidates(one, OPTIONS)) <= 40 for one in found)


def test_what_is_tuned_is_chosen_by_kernel_rows_and_key() -> None:
    words = ["--output", "x.json", "--only", "linear", "--rows", "16,1", "--keys", "4608x4096"]
    every = tune_cuda.all_tunables(tune_cuda.parse(words))
    assert {(each.kernel, each.rows, each.key) for each in every} == {
        ("linear", 1, "4608x4096"),
        ("linear", 16, "4608x4096"),
    }


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--only", "linear,linaer"], "--only: nothing is left that has linaer"),
        (["--only", "linear", "--rows", "3"], "--rows: nothing is left that has 3"),
        (["--rows", "1", "--keys", "4608x4097"], "--keys: nothing is left that has 4608x4097"),
    ],
)
def test_a_word_that_chooses_nothing_ends_the_command(words: list[str], found: str) -> None:
    with pytest.raises(SystemExit, match=found):
        tune_cuda.all_tunables(tune_cuda.parse(["--output", "x.json", *words]))
