"""``glmc inspect --node``, ``--why-not`` and ``--page``: words, JSON and refusals."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch.fx import Node

from glmc import job
from glmc.cli.main import main
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import moe_gate
from glmc.pipeline import stages as pipeline
from glmc.presets.catalog import ModelSource
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
GATE = "model.layers.2.mlp.gate"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("inspect") / "model", "glm-4.7")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    path = checkpoint.parent / "out"
    assert main(["compile", str(checkpoint), "-o", str(path), "--max-context", "64"]) == 0
    return path


def test_a_node_is_followed_from_its_line_to_its_calls(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--node", f"{GATE}#sigmoid"]) == 0
    said = capsys.readouterr().out
    assert "modeling_glm4_moe.py:" in said
    assert "router_logits.sigmoid()" in said  # the line itself, from the installed file
    assert f"became   {GATE}#gather: glmc.moe_gate(" in said
    assert "cpu.moe_gate" in said
    assert main(["inspect", str(artifact), "--node", f"{GATE}#sigmoid", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["events"][1]["what"] == "became"
    assert {call["phase"] for call in answer["calls"]} == {"prefill", "decode"}


def test_the_page_of_an_artifact(artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert main(["inspect", str(artifact), "--page", str(target)]) == 0
    assert target.read_text(encoding="utf-8").startswith("<!")
    assert main(["inspect", str(artifact), "--page", str(tmp_path / "no" / "page.html")]) == 2


def test_an_edit_after_the_inputs_were_read_ends_the_compile(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The edit is made when the model is read: its inputs are known by then."""
    model, read = Path(shutil.copytree(checkpoint, tmp_path / "model")), job.load_config

    def edited(*arguments: Any) -> ModelSource:
        (model / "notes.json").write_text("{}")
        return read(*arguments)

    monkeypatch.setattr(job, "load_config", edited)
    words = ["compile", str(model), "-o", str(tmp_path / "out"), "--max-context", "64"]
    assert main([*words, "--no-weights"]) == 2
    said = capsys.readouterr().err
    assert "[GLMC-1003]" in said and "changed since: notes.json" in said
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_two_questions_at_once_are_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--node", "a", "--why-not", "b"]) == 2
    assert "separate questions" in capsys.readouterr().err


def test_a_changed_history_is_refused(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact / "history.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b"mlp.gate", b"mlp.gite", 1))
        assert main(["inspect", str(artifact), "--node", f"{GATE}#sigmoid"]) == 2
        assert "history.json was changed" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)


def test_a_near_miss_is_named_with_node_condition_and_line(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The matcher refuses layer 2 late and layer 1 early: the late one is nearer."""

    def match(anchor: Node, program: Program) -> moe_gate.Gate:
        if anchor.meta["layer"] == 1:
            m.refuse(anchor, "too early")
        found = moe_gate.PASS.match(anchor, program)
        m.require(anchor.meta["layer"] != 2, found.router.scores, "layers must not be the second")
        return found

    broken = replace(moe_gate.PASS, match=match)
    passes = tuple(broken if one.name == "moe_gate" else one for one in pipeline.PASSES)
    # What is after the gate can't be paged without it, and is not asked for.
    monkeypatch.setattr(pipeline, "PASSES", passes)
    assert main(["inspect", str(checkpoint), "--why-not", "moe_gate"]) == 0
    said = capsys.readouterr().out
    assert "0 matches in the model, 2 expected" in said
    assert said.index("layers must not be the second") < said.index("too early")
    assert f"layer 2: {GATE}#sigmoid" in said
    assert "scores = router_logits.sigmoid()" in said
    assert main(["inspect", str(checkpoint), "--why-not", "moe_gate", "--layer", "1"]) == 0
    assert "layers must not be the second" not in capsys.readouterr().out


def test_a_sum_that_the_next_layer_took_up_keeps_its_calls(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second sum of a layer goes into the next layer's norm, that of the last into the final
    norm."""
    layers = json.loads((artifact / "report.json").read_text())["model"]["layers"]
    for layer, heir in ((0, "layers.1.input_layernorm"), (layers - 1, "model.norm")):
        assert main(["inspect", str(artifact), "--node", f"layers.{layer}#add.1"]) == 0
        said = capsys.readouterr().out
        assert "dropped" not in said and "kernel calls: none" not in said
        assert f"{heir}#rsqrt: glmc.add_rms_norm(" in said


def test_a_fused_node_stands_for_all_that_it_was_made_of(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--node", "layers.1.mlp.gate", "--json"]) == 0
    origins = json.loads(capsys.readouterr().out)["origins"]
    names = [name for name, _ in origins]
    assert "model.layers.1.mlp.gate#sigmoid" in names and len(names) > 5
    lines = [int(line) for line in re.findall(r":(\d+) ", " ".join(each for _, each in origins))]
    assert lines == sorted(lines) and len(set(lines)) > 3
    assert not any(earlier == "" != later for (_, earlier), (_, later) in pairwise(origins))


@pytest.mark.parametrize("name", ["prefill", "decode", "capture", "nothing"])
def test_only_passes_are_asked_why_not(
    name: str, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--why-not", name]) == 2
    said = capsys.readouterr().err
    assert f"no pass '{name}' ran" in said and "prefill," not in said


def test_a_pass_that_matches_nothing_is_not_asked(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--why-not", "specialise"]) == 2
    said = capsys.readouterr().err
    assert "'specialise' matches nothing: it makes the program of each phase" in said


def test_a_page_is_written_over_no_other_file(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, manifest = tmp_path / "notes.html", (artifact / "manifest.json").read_bytes()
    notes.write_text("<p>mine</p>")
    assert main(["inspect", str(artifact), "--page", str(notes)]) == 2
    assert main(["inspect", str(artifact), "--page", str(artifact / "manifest.json")]) == 2
    assert main(["inspect", str(artifact), "--page", str(artifact / "new.html")]) == 2
    assert notes.read_text() == "<p>mine</p>"
    assert (artifact / "manifest.json").read_bytes() == manifest
    page = tmp_path / "page.html"
    for _ in range(2):  # its own page is written again
        assert main(["inspect", str(artifact), "--page", str(page)]) == 0


def test_a_layer_is_refused_where_it_chooses_nothing(artifact: Path) -> None:
    for question in (["--node", "layers.1.mlp.gate"], ["--json"]):
        assert main(["inspect", str(artifact), "--layer", "1", *question]) == 2
