"""``glmc diff`` of artifacts and histories; tests/e2e has one of a dump and a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from glmc.artifact.inputs import inputs_json, read_inputs
from glmc.cli import diff_sides
from glmc.config import CompileOptions
from glmc.observe.diff.compare import compare
from glmc.observe.diff.sides import Side, side_of
from glmc.observe.history.encode import history_to_json
from tests.artifact.toy import ToyWeights, write
from tests.observe.sample import history
from tests.support.command import command_of, require_refusal


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two artifacts of the runtime's toy with the sample's history; one names another target."""
    root = tmp_path_factory.mktemp("toys")
    inputs = inputs_json(read_inputs(None, "toy", CompileOptions()).inputs)
    for name, made in (("a", history()), ("b", replace(history(), target="cpu"))):
        write(root / name, history=history_to_json(made), inputs=inputs)
    return root / "a", root / "b"


def test_artifacts_and_histories(
    toys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (a, b) = command_of(capsys), toys
    same = run("diff", a, Path(shutil.copytree(a, tmp_path / "a")), "--exit-code")
    assert same.status == 0 and same.out.splitlines()[2:] == ["no difference"]
    other = run("diff", a, b, "--exit-code")
    assert other.status == 1 and "model:    target xpu | cpu" in other.out
    assert run("diff", a, b).status == 0
    data = json.loads(run("diff", a, b / "history.json", "--json").out)
    assert [side["kind"] for side in (data["a"], data["b"])] == ["artifact", "history"]
    assert [change["name"] for change in data["changes"]] == ["target"] and data["differs"]


def test_artifacts_with_other_weights_differ(
    toys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ToyWeights()
    next(iter(source.tensors.values())).add_(1)
    inputs = json.loads((toys[0] / "inputs.json").read_text())
    write(tmp_path / "a", source, history=history_to_json(history()), inputs=inputs)
    done = command_of(capsys)("diff", toys[0], tmp_path / "a", "--exit-code")
    assert done.status == 1 and "files:    weights/0000" in done.out


def test_a_page_of_several(
    toys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (a, b) = command_of(capsys), toys
    file = tmp_path / "page.html"
    assert run("diff", a, b, b / "history.json", "--page", file, "--exit-code").status == 1
    html = file.read_text(encoding="utf-8")
    assert "3 compiles side by side" in html and "model:    target xpu | cpu" in html
    assert run("diff", a, a, "--page", file, "--exit-code").status == 0, (
        "a page of ours is replaced"
    )
    require_refusal(run("diff", a, b, b), "GLMC-1001", "--page FILE")
    require_refusal(run("diff", a, b, "--page", a / "page.html"), "GLMC-1001", "listed and hashed")
    require_refusal(run("diff", a, b, "--page", file, "--json"), "GLMC-1001", "two answers")


def test_what_can_not_be_compared(
    toys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (a, b) = command_of(capsys), toys
    (tmp_path / ".glmc-dump").write_text("")
    single = run("diff", a, tmp_path)
    require_refusal(single, "GLMC-1001", "dump of single steps", "history.json", str(tmp_path))
    require_refusal(run("diff", a, b, "--target", "cpu"), "GLMC-1001", "--target")
    require_refusal(run("diff", a, "glm-4.8"), "GLMC-1002", "glm-4.7")
    require_refusal(run("diff", a, "glm-4.7 --dump here"), "GLMC-1001", "--dump does not change")
    require_refusal(run("diff", a, "glm-4.7 'x"), "GLMC-1001", "No closing quotation")
    for text in ("", " "):
        require_refusal(run("diff", a, text), "GLMC-1001", "nothing to compare")
    require_refusal(run("diff", a, "glm-4.7 --help"), "GLMC-1001", "--help")
    unknown = run("diff", "glm-4.7", "glm-4.7 --passes-off ropes")
    require_refusal(unknown, "GLMC-1001", "no pass 'ropes'")
    (tmp_path / "history.json").write_text("[]")
    require_refusal(run("diff", a, tmp_path / "history.json"), "GLMC-2001", "no JSON object")


def test_an_artifact_of_another_hand_names_no_file_and_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a target of another distribution: what is read and imported is what was typed."""
    inputs = read_inputs(None, "toy", CompileOptions()).inputs
    hostile = {**inputs.options, "target": "theirs", "abi_profile": "P-B", "seed": 7}
    hostile |= {"pipeline": "/etc/theirs.yaml", "passes_on": ["theirs"]}
    stored = inputs_json(replace(inputs, options=hostile, pipeline="ab" * 32))
    write(tmp_path / "a", history=history_to_json(history()), inputs=stored)
    asked: list[CompileOptions] = []

    def compiled(models: object, options: list[CompileOptions], *, silent: bool) -> Iterator[Side]:
        asked.extend(options)
        return iter([side_of("toy", "compile", history(), inputs)])

    monkeypatch.setattr(diff_sides, "_compile", compiled)
    left, right = diff_sides.all_sides([str(tmp_path / "a"), "glm-4.7"], {})
    assert asked == [CompileOptions(seed=7)]
    (said,) = right.remarks
    assert "--pipeline, --passes-on, --target of the recorded compile left out" in said
    assert said in compare(left, right).remarks
