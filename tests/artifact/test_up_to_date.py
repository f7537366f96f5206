"""Whether an artifact has to be compiled again, by what it was made from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.artifact import inputs as module
from glmc.artifact.inputs import (
    InputFile,
    differences,
    inputs_from_json,
    inputs_json,
    read_inputs,
    require_unchanged,
    sources_hash,
)
from glmc.artifact.times import Times, times_json
from glmc.artifact.up_to_date import reason_to_compile
from glmc.cli.if_changed import is_up_to_date
from glmc.config import CompileOptions
from glmc.errors import CheckpointError, PackError
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.manifest import FORMAT
from tests.artifact.toy import write

OPTIONS = CompileOptions(target="xpu", max_context=64)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    header = json.dumps({"w": {"dtype": "U8", "shape": [400], "data_offsets": [0, 400]}}).encode()
    length = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(length + header + bytes(400))
    return folder


def made(model: Path, /, **changes: Any) -> Path:
    """An artifact that says that it was made of ``model``; ``changes`` are other inputs."""
    path = model.with_name("toy.xpu")
    read = read_inputs(model, model.name, OPTIONS)
    stored = inputs_json(replace(read.inputs, **changes))
    times = times_json(Times(modified=read.modified))
    write(path, inputs=stored, times=lambda: times, force=True)
    return path


def reason(path: Path, model: Path, **changes: Any) -> str | None:
    return reason_to_compile(path, model, model.name, replace(OPTIONS, **changes))


def test_the_same_again_is_up_to_date(model: Path) -> None:
    path = made(model)
    assert reason(path, model) is None
    assert reason(path, model, force=True) is None
    (model / "README.md").write_text("another card")
    (model / ".cache").write_text("of the hub")
    os.utime(model / "model.safetensors", (1, 1))  # small enough to be hashed
    assert reason(path, model) is None


def test_what_changed_is_named(model: Path) -> None:
    path = made(model)
    assert reason(path.with_name("new"), model) == "there is no artifact yet"
    assert reason(path, model, dtype="float32") == "changed since: option dtype"
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"other")
    (model / "config.json").write_text("{ }")
    several = reason(path, model, seed=7)
    assert several == "changed since: config.json, model.safetensors, tokenizer.json and 1 more"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sources": "another"}, "the sources of glmc"),
        ({"versions": {"torch": "2.5"}}, "the version of glmc"),
        ({"model": "another"}, "the name of the model"),
        ({"pipeline": "ab"}, "the pipeline file"),
        ({"extensions": {"pass swiglu": "swiglu 1.0"}}, "another distribution's"),
    ],
)
def test_what_it_was_made_with_counts(model: Path, changes: dict[str, Any], word: str) -> None:
    assert word in str(reason(made(model, **changes), model))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a lost file": (lambda path: (path / "plans/decode.json").unlink(), "not those that"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "edited inputs": (
        lambda path: (path / "inputs.json").write_bytes(
            (path / "inputs.json").read_bytes().replace(b"xpu", b"cpu")
        ),
        "inputs.json was changed",
    ),
    "a bit of the weights": (lambda path: flip(next((path / "weights").iterdir())), "changed"),
    "no directory": (lambda path: (shutil.rmtree(path), path.write_text("")), "no such artifact"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_artifact_is_compiled(model: Path, name: str) -> None:
    path, (damage, word) = made(model), DAMAGE[name]
    damage(path)
    assert word in str(reason(path, model))


def test_a_large_file_counts_by_header_size_and_time(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASHED_BYTES", 100)
    path, weights = made(model), model / "model.safetensors"
    data, before = weights.read_bytes(), weights.stat()
    stored = json.loads((path / "inputs.json").read_text())["files"]["model.safetensors"]
    assert stored["whole"] is False and stored["size"] == weights.stat().st_size
    assert "model.safetensors" in json.loads((path / "times.json").read_text())["modified"]
    assert reason(path, model) is None
    weights.write_bytes(data[:-1] + b"x")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert reason(path, model) == "changed since: model.safetensors", "its ctime tells"
    assert reason(made(model), model) is None
    weights.write_bytes(data.replace(b"U8", b"I8"))
    assert reason(path, model) == "changed since: model.safetensors"
    path = made(model)
    (path / "times.json").write_text('{"schema_version": 1, "modified": {"model.safetensors": 7}}')
    assert reason(path, model) == "changed since: model.safetensors", "as without times"
    (path / "times.json").unlink()
    assert reason(path, model) == "changed since: model.safetensors"


def test_a_change_while_it_is_compiled_is_an_error(model: Path) -> None:
    before = read_inputs(model, model.name, OPTIONS)
    require_unchanged(before, model, OPTIONS)
    (model / "config.json").write_text("{ }")
    with pytest.raises(CheckpointError, match="while they were compiled") as refused:
        require_unchanged(before, model, OPTIONS)
    assert refused.value.found == "changed since: config.json"


def test_a_pipeline_counts_by_its_content(model: Path, tmp_path: Path) -> None:
    read = []
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("off: [rope]")
        options = replace(OPTIONS, pipeline=str(tmp_path / name))
        read.append(read_inputs(model, model.name, options).inputs)
    assert read[0] == read[1] and len(read[0].pipeline) == 64
    (tmp_path / "b.yaml").write_text("off: [qk_norm]")
    other = read_inputs(model, model.name, options).inputs
    assert list(differences(read[0], other)) == ["the pipeline file"]


def test_the_emulator_is_among_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sources_hash.__wrapped__()
    monkeypatch.setattr(module, "_EMULATOR", "a_package_that_nobody_has")
    assert sources_hash.__wrapped__() != whole == sources_hash()


def test_an_artifact_of_another_model_is_not_replaced_unasked(model: Path) -> None:
    path = made(model)
    for name, force in (("toy", False), ("other", True)):
        options = replace(OPTIONS, force=force)
        assert not is_up_to_date(
            str(renamed(model, name)), path, options, report=False, as_json=True
        )
    with pytest.raises(PackError, match="another model") as refused:
        is_up_to_date(str(model.with_name("other")), path, OPTIONS, report=False, as_json=True)
    assert "--force" in str(refused.value.remedy) and refused.value.found == "one of toy"
    (path / "manifest.json").write_text(json.dumps({"format": FORMAT, "model": 7}))
    with pytest.raises(PackError, match="another model") as refused:
        is_up_to_date(str(model.with_name("toy")), path, OPTIONS, report=False, as_json=True)
    assert refused.value.found == "one that names no model"
    stored = read_inputs(model.with_name("other"), "other", OPTIONS).inputs
    assert next(differences(replace(stored, model="a", sources="b", files={}), stored)) == (
        "the name of the model"
    )


def renamed(model: Path, name: str) -> Path:
    return Path(shutil.copytree(model, model.with_name(name)))


def test_a_file_that_can_not_be_read_is_left_to_whoever_needs_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "open_plain", refused)
    monkeypatch.setitem(module.__dict__, "PACKAGES", ("glmc", "a-package-that-nobody-has"))
    read = read_inputs(model, model.name, OPTIONS)
    assert read.inputs.files["config.json"] == InputFile(2, "", False)
    assert read.modified.keys() == read.inputs.files.keys()
    assert read.inputs.versions["a-package-that-nobody-has"] == "not installed"


@pytest.mark.parametrize("data", [[], {}, {"schema_version": 1}, {"schema_version": "1"}])
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises(ArtifactError, match=r"inputs\.json is not well formed"):
        inputs_from_json(data, "here")


def test_the_config_is_written_down(tmp_path: Path) -> None:
    """A serving engine holds it against the checkpoint that it loads."""
    preset = read_inputs(None, "glm-4.6", CompileOptions()).inputs.config
    assert preset is not None and preset["max_position_embeddings"] == 202752
    (tmp_path / "config.json").write_text('{"rope_theta": 5.0}')
    assert read_inputs(tmp_path, "m", CompileOptions()).inputs.config == {"rope_theta": 5.0}
    for text in ("[]", "{"):
        (tmp_path / "config.json").write_text(text)
        assert read_inputs(tmp_path, "m", CompileOptions()).inputs.config is None
