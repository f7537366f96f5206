"""Damaged, tampered and foreign artifacts are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.errors import ArtifactError, CapacityError, GlmcError, GuardError, PlanError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.toy import write_toy


@pytest.fixture
def copy(toy_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_path, tmp_path / "copy"))


def _edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((root / "manifest.json").read_text())
    change(data)
    (root / "manifest.json").write_text(json.dumps(data))


def _refuses(root: Path, kind: type[GlmcError], text: str, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        glmc_runtime.load(root, **options)
    assert text in str(caught.value)


def test_an_untouched_artifact_loads(toy_path: Path) -> None:
    artifact = load_artifact(toy_path)
    assert set(artifact.plans) == {PREFILL.key, DECODE.key}
    assert "aten.linear" in artifact.functions


def test_one_flipped_byte_is_found(copy: Path) -> None:
    path = copy / "weights" / "all.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    _refuses(copy, ArtifactError, "sha256 differs")
    glmc_runtime.load(copy, verify_hashes=False)


def test_a_shortened_file_is_found_without_hashing(copy: Path) -> None:
    path = copy / "weights" / "all.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    _refuses(copy, ArtifactError, "another size", verify_hashes=False)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "plans" / "decode.json").unlink()
    _refuses(copy, ArtifactError, "missing: plans/decode.json")


def test_a_surplus_file_is_named(copy: Path) -> None:
    (copy / "weights" / "extra.bin").write_bytes(b"x")
    _refuses(copy, ArtifactError, "surplus: weights/extra.bin")


def test_a_link_is_refused(copy: Path) -> None:
    (copy / "link").symlink_to(copy / "manifest.json")
    _refuses(copy, ArtifactError, "holds a link")


def test_no_directory_and_no_manifest(tmp_path: Path) -> None:
    _refuses(tmp_path / "nothing", ArtifactError, "no such artifact")
    _refuses(tmp_path, ArtifactError, "manifest.json is missing")
    _refuses(tmp_path, ArtifactError, "compile again")


def test_a_checkpoint_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    _refuses(tmp_path, ArtifactError, f"'glmc compile {tmp_path} --output ARTIFACT'")


def test_a_truncated_manifest(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text[: len(text) // 2])
    _refuses(copy, ArtifactError, "not valid JSON")


def test_a_lost_field(copy: Path) -> None:
    _edit(copy, lambda data: data.pop("limits"))
    _refuses(copy, ArtifactError, "not well formed")


SAID = {
    "phase": "decode",
    "function": "collective.all_reduce",
    "dtype": "float32",
    "message": "32*tokens",
    "calls": 2,
}


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("schema_version", 99, "another schema version"),
        ("schema_version", 1, "glmc: glmc compile MODEL --output DIR"),
        ("schema_version", 2, "glmc: glmc compile MODEL --output DIR"),
        ("format", "zip", "no glmc artifact"),
    ],
)
def test_another_schema_or_format(copy: Path, field: str, value: object, text: str) -> None:
    _edit(copy, lambda data: data.__setitem__(field, value))
    _refuses(copy, ArtifactError, text)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a\\b", "c:evil", "."])
def test_a_path_out_of_the_artifact_is_refused(copy: Path, name: str) -> None:
    _edit(copy, lambda data: data["files"].__setitem__(name, {"sha256": "0", "size": 1}))
    _refuses(copy, ArtifactError, "outside the artifact")


def test_a_weight_file_out_of_the_artifact_is_refused(copy: Path) -> None:
    _edit(copy, lambda data: data["weights"]["head"].__setitem__("files", ["../h.safetensors"]))
    _refuses(copy, ArtifactError, "outside the artifact")


def test_a_phase_name_can_not_lead_out(copy: Path) -> None:
    entry = {"phase": "../../evil", "ranks": [0], "buckets": [1], "largest": {"tokens": 1}}
    _edit(copy, lambda data: data["phases"].append(entry))
    _refuses(copy, ArtifactError, "phases[2].phase is '../../evil', and none of prefill, decode")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ranks": [-1]}, "phases[1].ranks is (-1,), and not ascending within 1 ranks"),
        ({"ranks": []}, "phases[1].ranks is (), and not ascending"),
        ({"ranks": [0, 1]}, "phases[1].ranks is (0, 1), and not ascending within 1 ranks"),
        ({"phase": "prefill", "largest": {"tokens": 4, "sequences": 3}}, "phases[1] is of rank 0"),
        ({"largest": {"tokens": 4, "sequences": 3}}, "no largest step of decode"),
        ({"largest": {"tokens": 4}}, "no largest step of decode"),
        ({"largest": {"tokens": 2, "sequences": 2}}, "no largest step of decode"),
        ({"largest": {"tokens": 4, "sequences": 4, "patches": 1}}, "no largest step of decode"),
    ],
)
def test_plans_that_can_not_be_listed(copy: Path, change: dict[str, Any], text: str) -> None:
    _edit(copy, lambda data: data["phases"][1].update(change))
    _refuses(copy, ArtifactError, text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"count": 0}, "ranks.count is 0"),
        ({"count": 1 << 40}, "ranks.count is 1099511627776"),
        ({"count": 2}, ".files is of 1 ranks, and ranks.count 2"),
        ({"count": "2"}, "ranks.count"),
        ({"collectives": [{**SAID, "calls": 0}]}, "ranks.collectives[0].calls is 0"),
        ({"collectives": [{**SAID, "phase": "x"}]}, "ranks.collectives[0].phase is 'x'"),
        ({"collectives": [{**SAID, "message": "8*x"}]}, "ranks.collectives[0].message is '8*x'"),
    ],
)
def test_ranks_that_can_not_be(copy: Path, change: dict[str, Any], text: str) -> None:
    _edit(copy, lambda data: data["ranks"].update(change))
    _refuses(copy, ArtifactError, text)


def test_each_rank_runs_all_phases(copy: Path) -> None:
    def two(data: dict[str, Any]) -> None:
        data["ranks"]["count"] = 2
        data["phases"][0]["ranks"] = [0, 1]
        for entry in data["weights"].values():
            entry["files"] *= 2

    _edit(copy, two)
    _refuses(copy, ArtifactError, "phases has no plan of decode for rank 1")


def test_a_prefill_step_holds_what_decodes_together(copy: Path) -> None:
    _edit(copy, lambda data: data["phases"][0]["largest"].update(sequences=1))
    _refuses(copy, ArtifactError, "the largest step of prefill has fewer than 4 sequences")


def test_an_artifact_without_a_phase_that_the_engine_drives(copy: Path) -> None:
    (copy / "plans" / "decode.json").unlink()

    def without(data: dict[str, Any]) -> None:
        del data["files"]["plans/decode.json"], data["phases"][1]

    _edit(copy, without)
    _refuses(copy, ArtifactError, "the artifact has no phase 'decode'")


def test_a_plan_of_another_phase(tmp_path: Path) -> None:
    root = write_toy(tmp_path / "toy")
    text = (root / "plans" / "decode.json").read_text()
    (root / "plans" / "prefill.json").write_text(text)
    size, digest = (root / "plans" / "prefill.json").stat().st_size, _sha(root)
    entry = {"sha256": digest, "size": size}
    _edit(root, lambda data: data["files"].__setitem__("plans/prefill.json", entry))
    _refuses(root, PlanError, "another phase")


def _sha(root: Path) -> str:
    from glmc_runtime.loading.loader import sha256_of

    return sha256_of(root / "plans" / "prefill.json")


@pytest.mark.parametrize(
    ("guards", "text"),
    [
        (Guards("99.0", "2.5", "cpu"), "newer glmc-runtime"),
        (Guards("0.1.0", "99.0", "cpu"), "newer torch"),
        (Guards("0.1.0", "2.5", "abacus"), "unknown target"),
    ],
)
def test_guards_that_do_not_hold(tmp_path: Path, guards: Guards, text: str) -> None:
    root = write_toy(tmp_path / "toy", guards=guards, target=guards.target)
    _refuses(root, GuardError, text)


@pytest.mark.parametrize("target", ["cuda", "xpu", "abacus"])
def test_the_target_of_the_kernels_is_that_of_the_device(tmp_path: Path, target: str) -> None:
    _refuses(write_toy(tmp_path / "toy", target=target), ArtifactError, "guards.target is 'cpu'")


@pytest.mark.parametrize("version", ["new", "9" * 5000])
def test_a_guard_that_is_no_version(tmp_path: Path, version: str) -> None:
    root = write_toy(tmp_path / "toy", guards=Guards(version, "2.5", "cpu"))
    _refuses(root, ArtifactError, "is no version")


def test_an_installed_version_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_toy(tmp_path / "toy")
    monkeypatch.setattr(torch, "__version__", "2.5.1-vendor")
    _refuses(root, GuardError, "version of the installed torch can't be read")


def test_weights_beyond_the_memory_are_a_capacity_error(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("glmc_runtime.loading.weights.safe_open", full)
    _refuses(toy_path, CapacityError, "the weights do not fit into memory")


def test_an_artifact_without_weights_can_not_run(tmp_path: Path) -> None:
    root = write_toy(tmp_path / "toy", weights_included=False)
    _refuses(root, ArtifactError, "without weights")


def test_weights_of_another_shape(copy: Path) -> None:
    _edit(copy, lambda data: data["weights"]["head"].__setitem__("shape", [1000, 16]))
    _refuses(copy, ArtifactError, "weight 'head' is not what the manifest says")


def test_errors_have_codes_and_remedies(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        glmc_runtime.load(tmp_path)
    text = str(caught.value)
    assert text.startswith("[GLMC-2001]")
    assert "remedy:" in text
