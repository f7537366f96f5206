"""The writer: what it writes runs, and whatever goes wrong leaves nothing that loads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc.artifact import writer
from glmc.artifact.packing import PackProgress
from glmc.errors import CheckpointError, PackError
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format import artifact_files
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue, Values, read_values
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.loading.weights import load_weights
from tests.artifact.toy import REPORT, ToyWeights, parts, write
from tests.runtime.toy import reference_greedy

ROOT = Path(__file__).resolve().parents[2]


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def test_the_runtime_runs_what_is_written(tmp_path: Path) -> None:
    no_vendor = parts(guards=Guards("0.1.0", "2.5", "cpu"))
    manifest = write(tmp_path / "toy", parts=no_vendor)
    assert load_artifact(tmp_path / "toy").manifest == manifest
    session = glmc_runtime.load(tmp_path / "toy")
    (completion,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    assert completion.tokens == reference_greedy([3, 14, 15], 6)
    assert names(tmp_path) == ["toy"]


def test_manifest_and_files(tmp_path: Path) -> None:
    manifest = write(tmp_path / "toy")
    shards = sorted({file for entry in manifest.weights.values() for file in entry.files})
    assert len(shards) > 1
    assert set(manifest.files) == {
        *shards,
        "plans/decode.json",
        "plans/prefill.json",
        "report.json",
    }
    assert manifest.weights["qkv"].shape == (48, 16)
    assert manifest.weights["qkv"].dtype == "float32"
    assert manifest.guards.vendor_functions == {"kunlun_ops.rmsnorm": ("x", "weight")}
    assert json.loads((tmp_path / "toy" / "report.json").read_text()) == REPORT


def test_values_are_written_and_listed(tmp_path: Path) -> None:
    key = TensorKey("", "Add", 0, OUTPUT, "0")
    row = PlanValue(0, "x", "add", "", None, "float32", (), 0, None, None, (key,), "", ())
    values = Values({"prefill": (row,)})
    manifest = write(tmp_path / "toy", values=values)
    assert "values.json" in manifest.files
    assert read_values(load_artifact(tmp_path / "toy").files) == values
    write(tmp_path / "old")
    with pytest.raises(ArtifactError, match=r"has no values\.json"):
        read_values(load_artifact(tmp_path / "old").files)


def test_two_writes_are_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b", chunk_bytes=1 << 20)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[PackProgress] = []
    write(tmp_path / "toy", progress=seen.append)
    weights = ToyWeights().weights()
    total = sum(weight.bytes for weight in weights)
    assert [at.done for at in seen] == sorted({at.done for at in seen})
    assert {(at.total, at.count) for at in seen} == {(total, len(weights))}
    assert seen[-1].done == total
    assert list(dict.fromkeys(at.number for at in seen)) == list(range(1, len(weights) + 1))
    assert {at.tensor for at in seen} == {weight.name for weight in weights}


def test_without_weights(tmp_path: Path) -> None:
    manifest = write(tmp_path / "plain")
    values: dict[str, Any] = {"weights": ToyWeights().weights()}
    bare = writer.write_artifact(
        tmp_path / "bare", parts=parts(phases=()), plans={}, source=None, shard_bytes=5000, **values
    )
    assert not bare.weights_included
    assert bare.weights == manifest.weights
    assert names(tmp_path / "bare") == ["manifest.json", "plans", "report.json"]
    assert load_artifact(tmp_path / "bare").manifest == bare
    with pytest.raises(ArtifactError, match="without weights"):
        load_weights(load_artifact(tmp_path / "bare"), torch.device("cpu"))


def test_tokenizer_files_are_written_and_listed(tmp_path: Path) -> None:
    files = {"tokenizer.json": b"{}", "chat_templates/tool_use.jinja": b"[gMASK]<sop>"}
    manifest = write(tmp_path / "toy", tokenizer=files)
    written = {name for name in manifest.files if name.startswith("tokenizer/")}
    assert written == {f"tokenizer/{name}" for name in files}
    for name, data in files.items():
        assert (tmp_path / "toy" / "tokenizer" / name).read_bytes() == data
    load_artifact(tmp_path / "toy")


@pytest.mark.parametrize("kind", ["file", "directory", "link", "broken link"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_artifact_is_never_overwritten(tmp_path: Path, kind: str, force: bool) -> None:
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
        (path / "manifest.json").write_text('{"format": "webpack"}')
    else:
        target = tmp_path / ("toy" if kind == "link" else "nowhere")
        if kind == "link":
            write(target)
        path.symlink_to(target)
    before = names(tmp_path)
    with pytest.raises(PackError, match="output path is taken"):
        write(path, force=force)
    assert names(tmp_path) == before
    if kind == "directory":
        assert names(path) == ["manifest.json", "thesis.txt"]


def test_an_artifact_is_replaced_with_force_only(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    write(path, report={"number": 1})
    with pytest.raises(PackError, match="--force"):
        write(path, report={"number": 2})
    assert json.loads((path / "report.json").read_text()) == {"number": 1}
    (path / "extra.txt").write_text("left over")
    write(path, report={"number": 2}, force=True)
    assert json.loads((path / "report.json").read_text()) == {"number": 2}
    load_artifact(path)
    assert names(tmp_path) == ["toy"]


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_while_packing_is_never_overwritten(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "toy"

    def appear(progress: PackProgress) -> None:
        path.mkdir(exist_ok=True)
        (path / "thesis.txt").write_text("mine")

    with pytest.raises(PackError, match="taken"):
        write(path, force=force, progress=appear)
    assert names(path) == ["thesis.txt"]
    assert names(tmp_path) == ["toy"]


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    write(tmp_path / "toy")
    load_artifact(tmp_path / "toy")


@pytest.mark.parametrize("existing", [False, True])
def test_disk_full_while_writing(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "toy"
    if existing:
        write(path, report={"number": 1})

    def full(name: str) -> None:
        if name == "head":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PackError, match="disk is full") as caught:
        write(path, ToyWeights(full), force=True)
    assert "bytes of weights" in caught.value.expected
    assert "bytes free" in caught.value.found
    assert names(tmp_path) == (["toy"] if existing else [])
    if existing:
        assert json.loads((path / "report.json").read_text()) == {"number": 1}
        load_artifact(path)


def test_too_little_space_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PackError, match="too little room") as caught:
        write(tmp_path / "toy")
    assert caught.value.found == "100 bytes free"
    assert int(caught.value.expected.split()[0]) > sum(w.bytes for w in ToyWeights().weights())
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [CheckpointError("damaged"), KeyboardInterrupt(), MemoryError()])
def test_any_failure_cleans_up(tmp_path: Path, error: BaseException) -> None:
    def fail(name: str) -> None:
        if name == "head":
            raise error

    with pytest.raises(type(error)):
        write(tmp_path / "toy", ToyWeights(fail))
    assert names(tmp_path) == []


def test_a_file_where_a_directory_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackError, match="can't be written"):
        write(tmp_path / "file" / "toy")


def test_two_weights_of_one_name(tmp_path: Path) -> None:
    weights = ToyWeights().weights()
    with pytest.raises(PackError, match="share a name"):
        write(tmp_path / "toy", weights=[*weights, weights[0]])


@pytest.mark.parametrize("existing", [False, True])
def test_killed_midway(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "toy"
    if existing:
        write(path, report={"number": 1})
    ready, tell = os.pipe()

    def hang(name: str) -> None:
        if name == "head":
            os.write(tell, b"x")
            time.sleep(60)

    child = os.fork()
    if child == 0:
        try:
            write(path, ToyWeights(hang), force=True)
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)
    left = [item for item in tmp_path.iterdir() if item != path]
    assert len(left) == 1
    assert left[0].name.startswith(".toy.partial-")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        load_artifact(left[0])
    if existing:
        load_artifact(path)
    else:
        assert not path.exists()
    write(path, force=True)
    load_artifact(path)
    assert names(tmp_path) == ["toy"]


def killed(path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a fork of us that replaces the artifact, before it is put in place or just after it."""
    ready, tell = os.pipe()
    with monkeypatch.context() as patch:
        put = writer.put_in_place

        def hang(*given: Any) -> None:
            os.write(tell, b"x")
            time.sleep(60)

        if when == "before":
            patch.setattr(writer, "put_in_place", hang)
        else:
            patch.setitem(put.__globals__, "remove", hang)
        child = os.fork()
        if child == 0:
            try:
                write(path, force=True)
            finally:
                os._exit(1)
    assert os.read(ready, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_killed_at_the_rename_does_not_load_but_under_its_name(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new artifact is whole before it, and the old one after it, both under hidden names."""
    path = tmp_path / "toy"
    write(path, report={"number": 1})
    killed(path, when, monkeypatch)
    (left,) = (item for item in tmp_path.iterdir() if item != path)
    assert (left / "manifest.json").is_file()
    (tmp_path / "link").symlink_to(left)
    for name in (left, tmp_path / "link", left / "."):
        with pytest.raises(ArtifactError, match="what a compile that was ended left behind"):
            load_artifact(name)
    report = json.loads((path / "report.json").read_text())
    assert (report == {"number": 1}) is (when == "before")
    assert ("passes" in report) is (when != "before")
    load_artifact(path)
    shutil.copytree(left, tmp_path / "saved")
    load_artifact(tmp_path / "saved")
    write(path, force=True)
    assert names(tmp_path) == ["link", "saved", "toy"]


@pytest.mark.parametrize("name", [".toy.partial-1", ".toy.replaced-1"])
def test_nothing_is_written_to_a_name_that_does_not_load(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackError, match="output path is taken"):
        write(tmp_path / name)


def test_an_old_artifact_that_can_not_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "toy", report={"number": 1})
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    with pytest.warns(UserWarning, match=r"\.toy\.partial-.* is left over"):
        write(tmp_path / "toy", report={"number": 2}, force=True)
    assert json.loads((tmp_path / "toy" / "report.json").read_text()) == {"number": 2}
    (left,) = (item for item in tmp_path.iterdir() if item.name != "toy")
    with pytest.raises(ArtifactError, match="left behind"):
        load_artifact(left)


class Disk:
    """What the system says of a disk: full while something is being written, and not before."""

    def __init__(self, root: Path, inodes: int, free_inodes: int) -> None:
        self.root, self.f_files, self.free_inodes = root, inodes, free_inodes
        self.f_frsize, self.f_bavail = 4096, 1 << 30

    @property
    def f_favail(self) -> int:
        return self.free_inodes if any(self.root.glob(".toy.partial-*")) else 100


@pytest.mark.parametrize(
    ("number", "inodes", "free", "words"),
    [
        (errno.ENOSPC, 1000, 0, "no inodes left"),
        (errno.ENOSPC, 1000, 1, "no inodes left"),
        (errno.ENOSPC, 1000, 100, "disk is full"),
        (errno.ENOSPC, 0, 0, "disk is full"),  # a file system without a fixed number of them
        (errno.EDQUOT, 1000, 5, "quota"),
        (errno.EROFS, 1000, 5, "can't be written: Read-only file system"),
    ],
)
def test_what_the_disk_lacks(
    tmp_path: Path,
    number: int,
    inodes: int,
    free: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lack(name: str) -> None:
        if name == "head":
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "statvfs", lambda path: Disk(tmp_path, inodes, free))
    monkeypatch.setattr(writer, "_check_space", lambda path, needed: None)
    with pytest.raises(PackError, match=words) as caught:
        write(tmp_path / "toy", ToyWeights(lack))
    assert caught.value.remedy
    assert names(tmp_path) == []


def test_a_file_that_the_runtime_would_not_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(artifact_files._LARGEST, "plans", 1000)
    with pytest.raises(PackError, match="too large for an artifact") as caught:
        write(tmp_path / "toy")
    assert caught.value.place.startswith("plans/")
    assert names(tmp_path) == []


def test_a_name_too_long_for_the_system(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="can't be written: File name too long"):
        write(tmp_path / ("a" * 300))
