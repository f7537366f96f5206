"""The plans of a shipped model are the stored ones; a broken pass is found and named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import InternalError
from glmc.presets.catalog import preset_names
from tests.sabotage import sabotaged
from tests.support.command import ROOT
from tests.tools.plan_replay.test_against import git
from tools.plan_replay import __main__ as command
from tools.plan_replay.canonical import Renames, canonical
from tools.plan_replay.digests import chosen, differences, read_digests
from tools.plan_replay.tree import Plans, compile_tree, models_of, read_plans
from tools.plan_replay.worker import require_own_modules, targets, write_plans

MODEL = "tiny-dense"
LABELS = ["cpu", "cuda", "xpu/P-A", "xpu/P-B", "xpu/P-C"]
PHASES = ("prefill", "decode")

pytestmark = pytest.mark.usefixtures("shared_captures")


def plans_of(folder: Path) -> Plans:
    """Of this process, in which a test may have broken something."""
    written = write_plans(str(ROOT / "models" / MODEL), folder)
    return read_plans(MODEL, written, Renames())


def stored() -> Plans:
    return chosen(read_digests(), [MODEL], [], all_models=False)


def test_all_models_and_targets_are_stored() -> None:
    models, found = models_of(ROOT), read_digests()
    assert {*preset_names(), "tiny-dense", "tiny-moe"} == {*models}
    assert [label for label, _, _ in targets(())] == LABELS
    wanted = {(model, label, phase) for model in models for label in LABELS for phase in PHASES}
    assert {*found} == wanted
    assert all(plan.calls > 10 for plan in found.values())


def test_the_plans_of_a_shipped_model_are_those_that_are_stored(tmp_path: Path) -> None:
    found = plans_of(tmp_path)
    assert len(found) == len(LABELS) * len(PHASES)
    assert differences(found, stored(), "stored") == {}


def test_what_is_compared_is_what_an_artifact_holds(tmp_path: Path) -> None:
    """Of a target that is lowered after others from one front end."""
    options = CompileOptions(target="xpu", abi_profile="P-C")
    artifact = tmp_path / "artifact"
    compile_model(ROOT / "models" / MODEL, artifact, options)
    for name, plan in plans_of(tmp_path / "plans").items():
        if name.target == "xpu/P-C":
            data = json.loads((artifact / "plans" / f"{name.phase}.json").read_text())
            lines = plan.text.splitlines()
            expected = canonical(data, {}).splitlines()
            assert [line for line in lines if not line.startswith("weight ")] == expected


def test_a_broken_pass_is_found_in_every_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged("wrong_norm_eps").install(monkeypatch)
    found = differences(plans_of(tmp_path), stored(), "stored")
    assert {*found} == {*stored()}


def test_a_pass_that_joins_parts_of_a_weight_in_another_order_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan alone does not show it: the order is in the weight's recipe."""
    sabotaged("wrong_qkv_order").install(monkeypatch)
    found = differences(plans_of(tmp_path), stored(), "stored")
    assert {*found} == {*stored()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the same files whose page has lost a merge since the only commit."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("glmc", "runtime", "tools", f"models/{MODEL}"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "constraints.txt", tree)
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "before")
    page = tree / "glmc" / "pipeline" / "stages.py"
    text, lost = page.read_text(), "    rope_decode_attention.PASS,\n"
    assert text.count(lost) == 1
    page.write_text(text.replace(lost, ""))
    return tree


def test_a_plan_that_differs_ends_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = stored()
    name = next(name for name in plans if (name.target, name.phase) == ("cuda", "decode"))
    for differing, status in ({}, 0), ({name: replace(plans[name], sha256="0")}, 1):
        made = {**plans, **differing}
        monkeypatch.setattr(command, "compile_tree", lambda *given, made=made, **named: made)
        app = typer.Typer()
        app.command()(command.main)
        result = CliRunner().invoke(app, ["--models", MODEL])
        assert result.exit_code == status, result.output
        assert f"10 plans compared with digests.txt, {len(differing)} differ" in result.output
        assert (f"{MODEL} cuda decode: " in result.output) is bool(differing)


class TestCommand:
    """The whole command, run in that tree."""

    # Two processes that import and compile; ``make plans`` runs the command of this tree as well.
    @pytest.mark.slow
    def test_a_broken_pass_ends_it_with_1_and_is_named(self, tree: Path) -> None:
        status, out = run(tree, "--models", MODEL)
        (line, *rest) = out.splitlines()
        assert status == 1, out
        assert line.startswith(f"{MODEL} cuda decode: {calls('cuda', 'decode')} calls in digests")
        assert rest[0] == "10 plans compared with digests.txt, 1 differ"

    @pytest.mark.slow
    def test_against_a_commit_shows_the_calls(self, tree: Path) -> None:
        status, out = run(tree, "--models", MODEL, "--against", "HEAD")
        lines = out.splitlines()
        assert status == 1, out
        assert lines[0].startswith(f"{MODEL} cuda decode: ")
        assert lines[1].startswith("first difference: call cuda.")
        lost = [line for line in lines if line.startswith("-call cuda.rope_decode_attention of ")]
        assert lost
        assert lines[-1] == "10 plans compared with HEAD, 1 differ"

    @pytest.mark.slow
    def test_write_stores_what_is_asked_for_alone(self, tree: Path) -> None:
        file = tree / "tools" / "plan_replay" / "digests.txt"
        before = file.read_text().splitlines()
        status, out = run(tree, "--models", MODEL, "--targets", "cuda", "--write")
        assert (status, out) == (0, "2 plans stored in digests.txt\n")
        after = file.read_text().splitlines()
        changed = [new for old, new in zip(before, after, strict=True) if old != new]
        assert [line.rpartition(" ")[0].split()[:3] for line in changed] == [
            [MODEL, "cuda", "decode"]
        ]
        assert run(tree, "--models", MODEL, "--targets", "cuda")[0] == 0
        file.write_text("\n".join(before) + "\n")


def test_a_process_that_dies_is_no_equal_plan(tmp_path: Path) -> None:
    """A tree of another time, whose glmc the worker can't use."""
    tree = tmp_path / "tree"
    (tree / "glmc" / "presets").mkdir(parents=True)
    (tree / "glmc" / "__init__.py").write_text("")
    (tree / "glmc" / "presets" / "old.json").write_text('{"config": {"num_hidden_layers": 1}}')
    with pytest.raises(InternalError, match=r"old of .*tree"):
        compile_tree(tree, tmp_path / "plans", ["old"])


def test_a_module_of_another_tree_is_not_used(tmp_path: Path) -> None:
    require_own_modules(ROOT)
    with pytest.raises(SystemExit, match="has no glmc"):
        require_own_modules(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "tiny-dense,glm-6"], "glm-6"),
        (["--targets", "tpu"], "tpu"),
        (["--write", "--against", "HEAD"], "drop --against"),
        (["--against", "nowhere"], "no commit 'nowhere'"),
    ],
)
def test_refused_before_anything_is_compiled(arguments: list[str], words: str) -> None:
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.output


def run(tree: Path, *arguments: str) -> tuple[int, str]:
    path = os.pathsep.join([str(tree), str(tree / "runtime")])
    done = subprocess.run(
        [sys.executable, "-m", "tools.plan_replay", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.returncode, done.stdout


def calls(target: str, phase: str) -> int:
    return next(
        plan.calls
        for name, plan in stored().items()
        if (name.target, name.phase) == (target, phase)
    )
