"""Ours beside vLLM: turns, sizes, table and bars, with a side that only answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.engines.work import unlike_prompts
from bench.gpu import h200
from bench.gpu.beside_doc import newest
from bench.gpu.beside_table import bar_of, beside_rows, missed_rows
from bench.gpu.beside_vllm import beside_vllm, in_turn
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_results import Machine, Results
from bench.gpu.gpu_table import markdown, merged, sections
from bench.gpu.vllm_side import LONG_BATCH, RAGGED, SITE, Sizes, lacking
from bench.models import gpu_model
from glmc_runtime.generate.session import Session

pytestmark = pytest.mark.usefixtures("shared_captures")


class Answers:
    """A side that takes as long as it is told for each order, and keeps what it was asked."""

    start_s = 75.0

    def __init__(self, **ms: float) -> None:
        self.ms, self.asked = ms, list[tuple[str, dict[str, Any]]]()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None: ...

    def ask(self, order: str, **given: Any) -> dict[str, Any]:
        self.asked.append((order, given))
        return {"ms": self.ms[order]}


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[tuple[str, int]] = []

    def side(name: str, ms: float) -> Any:
        def run(seed: int) -> float:
            order.append((name, seed))
            return ms + seed

        return run

    found = in_turn(side("ours", 0.0), side("theirs", 1.0), 2)
    assert found == [(1000.0, 1001.0), (1001.0, 1002.0)]
    assert [name for name, _ in order] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_a_folder_without_vllm_says_how_to_make_one(tmp_path: Path) -> None:
    assert f"{SITE} is not set" in (lacking(None) or "")
    assert "has no folder vllm" in (lacking(str(tmp_path)) or "")
    (tmp_path / "vllm").mkdir()
    assert lacking(str(tmp_path)) is None


def test_without_a_peer_the_run_says_so_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SITE, raising=False)
    output = tmp_path / "out.json"
    words = ["--quick", "--target", "cpu", "--output", str(output), "--peers", "vllm"]
    assert h200.main(words) == 0
    assert f"{SITE} is not set" in output.read_text()


def test_a_model_that_is_measured_beside_vllm_alone_wants_it_as_the_peer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        h200.main(["--quick", "--output", "o.json", "--models", "9b,4.7", "--peers", "glmc"])
    assert "4.7: measured beside vLLM only, with --peers vllm" in capsys.readouterr().err


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that sessions of ours are given."""
    prompts: list[list[int]] = []
    sequence = Session.sequence

    def kept(self: Session, tokens: list[int]) -> Any:
        prompts.append(list(tokens))
        return sequence(self, tokens)

    monkeypatch.setattr(Session, "sequence", kept)
    return prompts


@pytest.mark.long
def test_all_rows_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefilled: list[list[int]]
) -> None:
    side = Answers(spread=0.0, decode=4.0, first=50.0, together=300.0)
    monkeypatch.setattr("bench.gpu.beside_vllm.vllm_side", lambda *_: side)
    results = Results(tmp_path / "r.json", quick=True)
    results.describe(Machine("a card", 3e12, 4e14), {"device": "a card", "bandwidth": 3e12,
                     "rate": 4e14, "torch": "2", "triton": "3", "transformers": "5"})  # fmt: skip
    more = {"steps": 2, "shortest": 3, "longest": 9, "longs": (160,)}
    monkeypatch.setattr("bench.gpu.vllm_side.CAPTURED_TOKENS", 32)
    sizes = Sizes((1, 2), (32, 64), 96, rounds=1, **more)
    model = gpu_model("4.7", True)
    bench = Bench(model, tmp_path / "model", torch.device("cpu"), "cpu")
    beside_vllm(results, bench, sizes, tmp_path)
    assert not results.data["errors"]
    rows = beside_rows(results.data["measurements"])
    assert rows[2][1] == f"decode, batch {LONG_BATCH}, context 160"
    assert [row[1].split(",")[0] for row in rows] == ["decode"] * 3 + [
        "first token of 32",
        "first token of 32",
        "first token of 64",
        f"first tokens of {RAGGED} prompts",
    ]
    assert all(row[-4:] == ("",) * 4 for row in rows)  # a quick run has no bars
    (decode, *_) = [item for item in results.data["measurements"] if item["peer"] == "glmc"]
    assert decode["ratio"] == pytest.approx(4.0 / decode["ms"])
    assert 0 < decode["experts_read"] <= model.config["n_routed_experts"]
    (_, two) = [item for item in results.data["measurements"] if item["peer"] == "glmc"][:2]
    assert two["experts_read"] > decode["experts_read"]  # tokens differ, and so do their experts
    asked = [given["seed"] for order, given in side.asked if order == "first"]
    assert len(set(asked)) == len(asked) == 6  # of another length, too: one would begin another
    floors = [item for item in results.data["measurements"] if item["what"] == "beside prefill"]
    assert all(item["bytes"] == model.weight_bytes(item["size"]) for item in floors)
    lengths = next(given["lengths"] for order, given in side.asked if order == "together")
    assert len(lengths) == RAGGED and all(3 <= length <= 9 for length in lengths)
    theirs = [
        prompt
        for order, given in side.asked
        if order != "decode"
        for prompt in unlike_prompts(512, given["seed"], given.get("lengths") or [given["length"]])
    ]
    assert len(theirs) == 2 * (3 + RAGGED) and all(prompt in prefilled for prompt in theirs)
    graphs = [(item["size"], item["prefill_graphs"]) for item in floors if item["peer"] == "glmc"]
    assert graphs == [(32, True), (64, True), (32, False)]
    assert {row[1] for row in rows[3:5]} == {
        "first token of 32",
        "first token of 32, no device graphs",
    }
    assert "Beside vLLM, milliseconds" in markdown(sections([results.data]))


@pytest.mark.parametrize(
    ("model", "work", "size", "ratio"),
    [
        ("9b", "decode", 1, 1.4),
        ("9b", "decode", 2, 1.2),
        ("9b", "decode", 128, 1.1),
        ("32b", "decode", 64, 1.05),
        ("32b", "decode", 128, None),
        ("air", "decode", 64, 1.03),
        ("4.7", "decode", 256, 1.2),
        ("9b", "prefill", 512, None),
        ("air", "prefill", 2048, 1.2),
        ("32b", "ragged", 8000, 1.1),
    ],
)
def test_bars(model: str, work: str, size: int, ratio: float | None) -> None:
    found = bar_of(model, work, size)
    assert (None if found is None else found.ratio) == ratio


def test_a_long_context_has_a_bar_of_its_own() -> None:
    common = {"model": "9b", "what": "beside decode", "size": 16, "floor_ms": 4.4}
    ours = {**common, "peer": "glmc", "ms": 6.0, "share": 0.73, "ratio": 1.15, "ratio_low": 1.1,
            "ratio_high": 1.2}  # fmt: skip
    for context, bar in ((1024, "1.20"), (8192, "1.10")):
        pair = [
            {**each, "context": context} for each in (ours, {**common, "peer": "vllm", "ms": 7})
        ]
        ((*_, found, _, _, _),) = beside_rows(pair)
        assert found == bar


def test_a_row_that_misses_its_bar_says_so() -> None:
    common = {"model": "9b", "what": "beside decode", "size": 64, "context": 1024, "floor_ms": 4.4}
    ours = {**common, "peer": "glmc", "ms": 6.0, "share": 0.73, "ratio": 1.149, "ratio_low": 1.1,
            "ratio_high": 1.2}  # fmt: skip
    (row,) = beside_rows([ours, {**common, "peer": "vllm", "ms": 6.84}])
    assert row[4] == "**1.15**" and row[-4:] == ("1.15", "**missed**", "73%", "met")
    assert beside_rows([ours]) == []


def test_a_row_without_device_graphs_is_a_row_of_its_own() -> None:
    common = {"model": "9b", "what": "beside prefill", "size": 512, "floor_ms": 4.4}
    ours = {**common, "peer": "glmc", "ms": 6.0, "share": 0.73, "ratio": 1.15, "ratio_low": 1.1,
            "ratio_high": 1.2}  # fmt: skip
    with_graphs = [ours, {**common, "peer": "vllm", "ms": 7}]
    without = [{**each, "ms": each["ms"] + 1, "prefill_graphs": False} for each in with_graphs]
    rows = beside_rows([*with_graphs, *without])
    assert [row[1:4] for row in rows] == [
        ("first token of 512", "7.00", "6.00"),
        ("first token of 512, no device graphs", "8.00", "7.00"),
    ]
    run = {"machine": {"device": "a card"}}
    runs = [{**run, "measurements": each} for each in (with_graphs, without)]
    assert len(merged(runs)["a card"]) == len(newest(runs)) == 4


def test_first_tokens_are_of_a_session_with_device_graphs_and_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(tmp_path / "r.json", quick=True)
    bench: Any = SimpleNamespace(model=gpu_model("9b", True), compile_seconds=0, load_seconds=0)
    asked: list[bool] = []

    def session(*, prefill_graphs: bool = False, **_: object) -> bool:
        asked.append(prefill_graphs)
        return prefill_graphs

    bench.session = session
    measured: list[tuple[bool, bool]] = []  # the session's, and what its row says
    monkeypatch.setattr("bench.gpu.beside_vllm.vllm_side", lambda *_: Answers())
    monkeypatch.setattr("bench.gpu.beside_vllm._rows", lambda *_: None)
    monkeypatch.setattr(
        "bench.gpu.beside_vllm._prefill",
        lambda _, __, session, *___, graphs: measured.append((session, graphs)),
    )
    beside_vllm(results, bench, Sizes((1,), (512, 2048), 96), tmp_path)
    assert asked == [True, False] and measured == [(False, False)]
    asked.clear()
    beside_vllm(results, bench, Sizes((1,), (2048,), 96), tmp_path)
    assert asked == [True]  # no length of the second session's


def test_lengths_with_device_graphs() -> None:
    assert Sizes((1,), (512, 1024, 1025, 2048), 96).captured == (512, 1024)


def test_what_the_cache_of_both_holds() -> None:
    sizes = Sizes((1, 256), (512, 2048), 1024)
    assert sizes.most_tokens == max(2048, sum(sizes.ragged))
    assert sizes.kv_tokens >= 256 * (1024 + sizes.steps) + sizes.most_tokens


def test_how_far_a_missed_ratio_is_from_its_bar() -> None:
    common = {"model": "9b", "what": "beside decode", "size": 64, "context": 1024, "floor_ms": 4.4}
    ours = {**common, "peer": "glmc", "ms": 6.0, "share": 0.75, "ratio": 1.035, "ratio_low": 1.0,
            "ratio_high": 1.2}  # fmt: skip
    pair = [ours, {**common, "peer": "vllm", "ms": 6.21}]
    assert missed_rows(pair) == [("GLM-4-9B-0414", "decode, batch 64", "0.600", "75%", "83%")]
    ours["ratio"] = 1.15
    assert missed_rows(pair) == []
