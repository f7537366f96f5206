"""Reading an artifact for inspection: equal to what was written, and no weight is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glmc.artifact.reader import read_artifact
from glmc.artifact.times import without_times
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.manifest import FileEntry, Manifest
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.loading.loader import load_artifact, sha256_of
from tests.artifact.toy import REPORT, TIMES, write
from tests.runtime.toy import toy_plan, write_manifest
from tests.support.logs import logged

ENDLESS = '{"schema_version": 1, "stages": {"capture": 1e400}}'
WRONG = '{"schema_version": 1, "modified": {"config.json": "yesterday"}}'


def with_report(root: Path, manifest: Manifest, text: str) -> None:
    (root / "report.json").write_text(text)
    size = (root / "report.json").stat().st_size
    manifest.files["report.json"] = FileEntry(sha256_of(root / "report.json"), size)
    write_manifest(root, manifest)


def test_reads_back(tmp_path: Path) -> None:
    manifest = write(tmp_path / "toy")
    contents = read_artifact(tmp_path / "toy")
    assert contents.manifest == manifest
    assert contents.plans == {phase.key: toy_plan(phase.name) for phase in (PREFILL, DECODE)}
    assert without_times(contents.report)["passes"][0].items() >= REPORT["passes"][0].items()
    assert contents.report["seconds"] == {"capture": 0.25} and contents.times == TIMES
    assert contents.report["passes"][0]["seconds"] == 0.5


def test_times_belong_to_no_hash(tmp_path: Path) -> None:
    """The runtime loads it with other times and without any; what is no form of them is said once,
    and is as none."""
    manifest = write(tmp_path / "toy")
    path = tmp_path / "toy" / "times.json"
    assert "times.json" not in manifest.files
    path.write_text("{}")
    assert load_artifact(tmp_path / "toy").manifest == manifest
    for text, words in (
        ("{", "not valid JSON"),
        ("[]", "schema_version 1"),
        (WRONG, "modified"),
        (ENDLESS, "times.stages.capture is inf"),
    ):
        path.write_text(text)
        with logged("glmc") as said_lines:
            assert read_artifact(tmp_path / "toy").times is None
            assert read_artifact(tmp_path / "toy").report["seconds"] == {}
        (said,) = said_lines
        assert words in said and said.endswith("its times are left out")
    path.unlink()
    contents = read_artifact(tmp_path / "toy", verify_hashes=True)
    assert contents.times is None and contents.report["seconds"] == {}
    assert contents.report["passes"][0]["seconds"] is None


def test_weights_are_only_read_to_verify(tmp_path: Path) -> None:
    manifest = write(tmp_path / "toy")
    file = tmp_path / "toy" / manifest.weights["head"].files[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    read_artifact(tmp_path / "toy")
    with pytest.raises(ArtifactError, match="sha256") as refused:
        read_artifact(tmp_path / "toy", verify_hashes=True)
    assert "compile again with --force" in str(refused.value.remedy)


def test_damaged_report(tmp_path: Path) -> None:
    manifest = write(tmp_path / "toy")
    for text, words in (("{", "not valid JSON"), ("[]", "no JSON object")):
        with_report(tmp_path / "toy", manifest, text)
        with pytest.raises(ArtifactError, match=words):
            read_artifact(tmp_path / "toy")
    (tmp_path / "toy" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        read_artifact(tmp_path / "toy")


@pytest.mark.parametrize("padded", [3, [], {"lm_head.weight": {}}])
def test_what_was_filled_up_is_text_by_weight(tmp_path: Path, padded: object) -> None:
    """``glmc inspect`` goes through it."""
    manifest = write(tmp_path / "toy")
    passes = [{**REPORT["passes"][0], "detail": {"padded": padded}}]
    with_report(tmp_path / "toy", manifest, json.dumps({**REPORT, "passes": passes}))
    with pytest.raises(ArtifactError, match=r"passes\[0\]\.detail\.padded"):
        read_artifact(tmp_path / "toy")


def test_a_changed_report_is_found_without_reading_the_weights(tmp_path: Path) -> None:
    write(tmp_path / "toy")
    report = tmp_path / "toy" / "report.json"
    report.write_text('{"passes": 3}'.ljust(report.stat().st_size))
    with pytest.raises(ArtifactError, match=r"report\.json was changed"):
        read_artifact(tmp_path / "toy")


def test_needs_no_torch() -> None:
    code = "import sys, glmc.artifact.reader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
