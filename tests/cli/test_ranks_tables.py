"""An artifact of several ranks as a user sees it: ``glmc inspect``, and the dump of its compile."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from glmc.cli.main import main
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two KV heads on four ranks, which share them; six experts on four, two for each."""
    folder = tmp_path_factory.mktemp("ranks")
    model = tiny_checkpoint(folder / "model", "glm-4.7")
    arguments = ["compile", str(model), "-o", str(folder / "out"), "--max-context", "64"]
    arguments += ["--tensor-parallel", "4", "--expert-parallel", "--no-weights"]
    arguments += ["--dump", str(folder / "dump"), "--dump-onnx", "--dump-after", "shard"]
    assert main(arguments) == 0
    return folder


def test_inspect_says_what_ranks_have_and_tell(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / "out")]) == 0
    out = capsys.readouterr().out
    assert "ranks    4, experts whole; collectives of a step: prefill " in out
    assert " on each rank, not included" in out
    assert "What the ranks add up in a step, by bucket" in out and "one_shot" in out
    assert "algorithms given, not measured" in out
    # Six experts in shares of two: the last rank has none.
    filled = "filled up with zeros: model.layers.*.mlp.experts.gate_up_proj, layers 1 to 2: 6 to 2"
    assert f"{filled} on each of 4" in " ".join(out.split())


def test_a_dump_says_how_values_are_dealt_and_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = (folder / "dump").glob("*_shard.txt")
    lines = text.read_text(encoding="utf-8")
    assert ", one of 4 ranks" in lines.partition("\n")[0]
    assert "(a summand on each rank)" in lines
    assert "(of 96 along dimension 1, on 4 ranks)" in lines
    assert b"all_reduce" in (folder / "dump" / f"{text.stem}.outside.onnx").read_bytes()
    monkeypatch.setattr("sys.argv", ["script"])
    runpy.run_path(str(text.with_suffix(".py")), run_name="__main__")
    assert "outside [4, 32] torch.bfloat16, [4, 96] torch.bfloat16" in capsys.readouterr().out


def test_a_model_of_one_rank_has_no_such_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_checkpoint(tmp_path / "model", "glm-4.7")
    arguments = ["compile", str(model), "--dump", str(tmp_path / "dump"), "--dump-after", "shard"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    assert "add --tensor-parallel 2" in capsys.readouterr().err
