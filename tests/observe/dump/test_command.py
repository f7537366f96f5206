"""The flags of ``glmc compile``: what a user sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.cli.main import main
from tests.support.checkpoints import tiny_checkpoint
from tests.support.command import SMALL, command_of, require_refusal

pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


def test_a_dump_beside_an_artifact(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "dump"
    flags = ("--dump", folder, "--dump-after", "moe_gate", "--dump-before", "rope")
    done = command_of(capsys)(
        "compile", model, "-o", tmp_path / "out", *SMALL, *flags, "--dump-picture", 1, "--json"
    )
    assert done.status == 0, done.err
    assert "dump: only .dot files were written, no .svg: the program 'dot'" in done.err
    assert done.out.startswith("{")
    assert sorted(path.name for path in folder.glob("*.dot")) == [
        "004_fuse_rope.before.layer_1.dot",
        "008_fuse_moe_gate.layer_1.dot",
    ]
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_failure_names_its_dump(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from glmc.pipeline import stages as pipeline

    passes = tuple(one for one in pipeline.PASSES if one.name != "add_rms_norm")
    monkeypatch.setattr(pipeline, "PASSES", passes)
    monkeypatch.chdir(tmp_path)
    done = command_of(capsys)("compile", model, "-o", "out", *SMALL, "--dump-on-failure")
    place = f"{model.name}.cpu.failure"
    require_refusal(done, "GLMC-1005", "add_rms_norm", f"dump:     {place}")
    assert list((tmp_path / place).glob("*_match_counts.failed.txt"))


def test_refusals(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = command_of(capsys), tmp_path / "mine"
    folder.mkdir()
    (folder / "work.txt").write_text("mine")
    out = ("compile", model, "-o", tmp_path / "out", *SMALL)
    require_refusal(run(*out, "--dump", folder), "GLMC-1008", "dump folder is taken", str(folder))
    require_refusal(run(*out, "--dump-onnx"), "GLMC-1001", "--dump-onnx needs a folder")
    unknown = run(*out, "--dump", tmp_path / "d", "--dump-after", "moe_gates")
    require_refusal(unknown, "GLMC-1001", "no pass 'moe_gates'", "moe_gate, moe_ffn")
    assert (folder / "work.txt").read_text() == "mine" and not (tmp_path / "out").exists()


MODEL = Path(__file__).parents[3] / "models" / "tiny-moe"


def test_a_compile_that_is_refused_leaves_the_earlier_dump(tmp_path: Path) -> None:
    dump, output = tmp_path / "dump", tmp_path / "out"
    command = ["compile", str(MODEL), "--no-weights", "-o", str(output), "--dump", str(dump)]
    assert main([*command, "--dump-after", "moe_gate"]) == 0
    written = sorted(dump.iterdir())
    assert len(written) > 3
    assert main(command) != 0  # the output path is taken
    assert sorted(dump.iterdir()) == written
