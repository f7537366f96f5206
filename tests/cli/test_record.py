"""``glmc record`` of a checkpoint and of an artifact, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import h5py
import numpy as np
import pandas as pd
import pytest

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from tests.support.command import command_of, require_refusal

TINY = "models/tiny-moe"


def test_a_checkpoint_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glmc, path, other = command_of(capsys), tmp_path / "run.h5", tmp_path / "other.h5"
    done = glmc(
        *("record", TINY, "--prompt", "The source", "--prompt", "a", "--steps", 2),
        *("-o", path, "--modules", "*.mlp*", "--modules", "lm_head"),
    )
    assert done.status == 0, done.err
    with h5py.File(path) as file:
        prompts, tokens = (json.loads(file.attrs[name]) for name in ("prompts", "tokens"))
        assert len(prompts) == 2 and [len(each) for each in tokens] == [2, 2]
        logits = file["0"]["lm_head.Linear.0.forward_output.0"]
        assert logits.shape[:2] == (1, sum(map(len, prompts)))
        assert logits.attrs["dtype"] == "bfloat16" and list(file) == ["0", "1", "2"]
        names = {name.split(".Glm4Moe")[0] for name in file["0"]}
        assert "model.layers.1.mlp" in names and "model.layers.1.self_attn" not in names
        ends = np.cumsum([len(each) for each in prompts]) - 1
        first = logits[0, ends].argmax(-1).tolist()
    assert first == [each[0] for each in tokens]
    assert done.out.startswith(f"{path}: ") and done.out.endswith(" tensors of 3 steps\n")
    assert "left out" in done.err
    summary = pd.read_csv(tmp_path / "run_summary.csv")
    assert set(summary["Step"]) == {0, 1, 2}

    done = glmc("record", TINY, "--like", path, "-o", other, "--modules", "lm_head", "-q")
    assert done.status == 0 and done.err == ""
    with h5py.File(path) as file, h5py.File(other) as again:
        assert again.attrs["tokens"] == file.attrs["tokens"]
        name = "2/lm_head.Linear.0.forward_output.0"
        assert np.array_equal(again[name][()], file[name][()])


def test_rows_and_another_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.h5"
    done = command_of(capsys)(
        *("record", TINY, "--ids", "1,2,3,4,5,6;7,8,9,10,11,12", "--steps", 0, "-o", path),
        *("--keep", "rows:2", "--dtype", "float32", "--layers", "0", "--parameters", "-q"),
    )
    assert done.status == 0, done.err
    with h5py.File(path) as file:
        data = file["0"]["model.layers.0.self_attn.o_proj.Linear.3.forward_output.0"]
        assert data.attrs["rows"].tolist() == [0, 5, 11] and data.shape == (3, 128)
        assert data.attrs["dtype"] == file.attrs["dtype"] == "float32"
        assert "model.layers.0.self_attn.o_proj.Linear.3.forward_params.weight" in file["0"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, shared_captures: None) -> Path:
    path = tmp_path_factory.mktemp("record") / "tiny.xpu"
    compile_model("models/tiny-dense", path, CompileOptions(target="xpu", max_context=64))
    return path


def test_an_artifact_is_recorded_by_the_runtime(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glmc, path, other = command_of(capsys), tmp_path / "ours.h5", tmp_path / "stock.h5"
    done = glmc("record", artifact, "--prompt", "The source", "-o", path, "--emulate")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{path}: ") and done.out.endswith(" of 2 steps (emulated)\n")
    assert glmc("record", "models/tiny-dense", "--like", path, "-o", other, "-q").status == 0
    with h5py.File(path) as ours, h5py.File(other) as stock:
        assert ours.attrs["made_by"] == "glmc artifact, xpu (emulated)" and ours.attrs["emulated"]
        assert ours.attrs["prompts"] == stock.attrs["prompts"]
        assert set(ours["0"]) <= set(stock["0"])
        assert "model.layers.0.self_attn.q_proj.Linear.0.forward_output.0" in ours["0"]


def test_a_record_of_another_model_is_refused_or_said(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glmc, path, out = command_of(capsys), tmp_path / "moe.h5", tmp_path / "out.h5"
    assert glmc("record", TINY, "--ids", "1,2", "-o", path, "--layers", "0", "-q").status == 0
    for side in (artifact, "models/tiny-dense"):
        words = ("expected: tiny-dense, layers 3", "found:    tiny-moe, layers 4")
        done = glmc("record", side, "--like", path, "-o", out)
        require_refusal(done, "GLMC-2004", "another model", *words)
        assert not out.exists()
    copy = tmp_path / "copy"
    copytree(TINY, copy)
    done = glmc("record", copy, "--like", path, "-o", out, "--layers", "0")
    assert done.status == 0
    assert f"note: {path} is of the model tiny-moe, and this one is copy" in done.err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--dtype", "float32", "--parameters"), "--dtype, --parameters"),
        (("--parameters",), "--parameters"),
    ],
)
def test_options_of_a_checkpoint_are_none_of_an_artifact(
    artifact: Path, words: tuple[str, ...], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = command_of(capsys)("record", artifact, "--ids", "1", "-o", "run.h5", *words)
    require_refusal(done, "GLMC-1001", f"found:    {found}")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("record", TINY, "--ids", "1", "-o", "run.h5", "--calls"), "GLMC-1001", "--calls"),
        (("record", TINY, "--ids", "1", "-o", "run.h5", "--emulate"), "GLMC-1001", "--emulate"),
        (("record", TINY, "--ids", "1"), "GLMC-2004", "--output"),
        (("record", TINY, "-o", "run.h5"), "GLMC-2004", "--prompt"),
        (("record", TINY, "--ids", "9999", "-o", "run.h5"), "GLMC-1001", "vocabulary"),
        (("record", TINY, "--ids", "1", "-o", "run.h5", "--keep", "no"), "GLMC-2004", "rows:N"),
        (("record", TINY, "--ids", "1", "-o", "run.h5", "--dtype", "f"), "GLMC-1001", "float32"),
        (("record", TINY, "--ids", "1", "-o", "run.h5", "--device", "x"), "GLMC-1001", "cpu"),
        (("record", "nowhere", "--ids", "1", "-o", "run.h5"), "GLMC-1001", "no checkpoint"),
        (("record", "glm-4.7", "--ids", "1", "-o", "run.h5"), "GLMC-1001", "no weights"),
        (("record", TINY, "--like", "README.md", "-o", "run.h5"), "GLMC-2013", "README.md"),
        (("record", TINY, "--ids", "1", "-o", "nowhere/run.h5"), "GLMC-2004", "can't be written"),
        (("record", TINY, "--ids", "1", "-o", "README.md"), "GLMC-2004", "HDF5"),
        (("record", TINY, "--ids", "1", "-o", "out/a.txt"), "GLMC-2004", "--output a.h5"),
        (("record", TINY, "--like", "gone.h5", "-o", "run.h5"), "GLMC-2013", "No such file or"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], code: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_refusal(command_of(capsys)(*words), code, said)
    assert not Path("run.h5").exists()
