"""Sides are processes of their own; what they say of their start and of a block adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cpu import sides
from bench.cpu.peers import MODULES, Source
from bench.cpu.sides import Setting
from bench.models import BenchModel, model_of

NAMES = ("one", "two")
SETTING = Setting("float32", 1, "wall", {})


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setitem(MODULES, name, "tests.bench.cpu.fake_peer")


def source(dtype: str = "float32") -> Source:
    return Source(Path("checkpoint"), Path("made"), dtype, 1)


def test_all_sides_are_up_at_once_and_say_what_their_starts_took(tmp_path: Path) -> None:
    made = dict.fromkeys(NAMES, source())
    with sides.up(made, [1, 2, 3], SETTING, tmp_path, starts=2) as (up, took):
        assert [side.name for side in up] == list(NAMES)
        assert {name: len(each) for name, each in took.items()} == dict.fromkeys(NAMES, 2)
        for found in (each for starts in took.values() for each in starts):
            parts = sum(found[part] for part in ("python", "import", "load", "hashes", "first"))
            assert parts == pytest.approx(found["total"])
            assert found["hashes"] == 0.01 <= found["load"] + 1e-6  # it slept as long as both
            assert found["token"] == 6 and found["version"] == "fake 1"
            assert 0 < found["RssAnon"] < found["VmHWM"]
        for side in up:
            side.ask("begin", prompts=[[1, 2], [3]], room=4)
            taken = side.ask("decode", steps=[[1, 1], [2, 2]])
            assert taken["seconds"] > 0
            assert 0 <= taken["spun"] <= taken["waited"] + 0.1
        answers = [side.ask("answers", prompts=[[1, 2], [3]], steps=[[1, 2]]) for side in up]
        assert answers[0]["logits"] == answers[1]["logits"]
        likeliest = [[row.index(1.0) for row in rows] for rows in answers[0]["logits"]]
        assert likeliest == [[3, 3], [4, 5]]
        assert all(side.process.poll() is None for side in up)
    assert [side.process.poll() for side in up] == [0, 0]


def test_a_side_whose_parent_has_ended_ends(tmp_path: Path) -> None:
    side, _ = sides.started("one", source(), [1], SETTING, tmp_path)
    side.connection.close()
    assert side.process.wait(timeout=60) == 1


def test_a_side_that_ends_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="side 'one' ended with 1"):
        sides.started("one", source("refused"), [1], SETTING, tmp_path)


def test_a_checkpoint_is_kept_and_never_taken_for_another(tmp_path: Path) -> None:
    model = model_of("dense", quick=True)
    place = sides.checkpoint_of(model, tmp_path)
    before = (place / "model.safetensors").stat().st_mtime_ns
    assert sides.checkpoint_of(model, tmp_path) == place
    assert (place / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((place / "config.json").read_text()) == model.config
    other = BenchModel("dense", "other", {**model.config, "rope_theta": 5.0})
    with pytest.raises(SystemExit, match="another model"):
        sides.checkpoint_of(other, tmp_path)
