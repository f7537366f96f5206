"""``glmc-runtime record``, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from glmc_runtime.cli import main
from glmc_runtime.format.values import VALUES, values_to_json
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.record.recorded import values_of_plans
from tests.runtime.toy import reference_greedy, write_manifest

h5py = pytest.importorskip("h5py")
HIDDEN = "model.layers.0.hidden.Toy.0.forward_output.0"


@pytest.fixture(scope="module")
def valued(worded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with a table of its values."""
    root = copytree(worded, tmp_path_factory.mktemp("valued") / "toy")
    artifact = load_artifact(root)
    table = json.dumps(values_to_json(values_of_plans(artifact.plans)))
    (root / VALUES).write_text(table)
    write_manifest(root, artifact.manifest)
    return root


@pytest.fixture
def record(valued: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on that toy; its status and what it said."""

    def run(*words: object) -> tuple[int, str, str]:
        status = main(["record", str(valued), *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_texts_and_ids_are_recorded(
    record: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path, other = tmp_path / "a.h5", tmp_path / "b.h5"
    words = ("--prompt", "w3 w14 w15", "--prompt", "w9 w2", "--steps", 2)
    assert record(*words, "-o", path) == (0, f"{path}: 37 tensors of 3 steps\n", "")
    expected = [reference_greedy([3, 14, 15], 2), reference_greedy([9, 2], 2)]
    with h5py.File(path) as file:
        assert json.loads(file.attrs["prompts"]) == [[3, 14, 15], [9, 2]]
        assert json.loads(file.attrs["tokens"]) == expected
        assert file["0"][HIDDEN].shape == (5, 16)
        assert file["1"][HIDDEN].attrs["function"] == "aten.add"
        assert file.attrs["made_by"] == "glmc artifact, cpu"
        whole = file["2"][HIDDEN][()]

    status, _, _ = record("--like", path, "--calls", "-o", other, "--modules", "*.hidden")
    assert status == 0
    with h5py.File(other) as file:
        assert list(file["2"]) == [HIDDEN]
        assert (file["2"][HIDDEN][()] == whole).all()
        assert not file.attrs["graph"]


def test_replays_for_want_of_tap_memory_are_said(
    record: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = ("--ids", "1,2,3;4,5", "-o", tmp_path / "a.h5", "--tap-memory", "4KiB")
    status, out, err = record(*words)
    assert (status, out.count("25 tensors of 2 steps")) == (0, 1)
    assert "times, each time for other values: 4.0 KiB of --tap-memory" in err
    assert record(*words, "-q")[2] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ids", "1"), "a record needs a file"),
        (("-o", "a.h5"), "--prompt"),
        (("-o", "a.h5", "--ids", "1", "--tap-memory", "much"), "no amount of memory"),
        (("-o", "a.h5", "--ids", "1,2,3", "--tap-memory", "100"), "larger than the tap memory"),
        (("-o", "a.h5", "--ids", "1", "--keep", "none"), "--keep"),
        (("-o", "a.h5", "--ids", "99"), "vocabulary"),
    ],
)
def test_mistakes(
    record: Callable[..., tuple[int, str, str]],
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = record(*words)
    assert status == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_without_values_is_named(
    worded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["record", str(worded), "--ids", "1", "-o", str(tmp_path / "a.h5")]
    assert main(words) == 2
    assert f"the artifact has no {VALUES}" in capsys.readouterr().err
