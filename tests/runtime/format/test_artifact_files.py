"""What is read of an artifact: plain files of a known size, and the bytes that were hashed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format import artifact_files
from glmc_runtime.format.artifact_files import MANIFEST, ArtifactFiles, FileState, largest_size
from glmc_runtime.format.manifest import FileEntry
from glmc_runtime.loading.loader import load_artifact

Make = Callable[[Path], object]


@pytest.fixture
def copy(toy_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_path, tmp_path / "copy"))


def bind(path: Path) -> None:
    """A socket: its name is short, as the system wants it, whatever the folder's is."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def link(path: Path) -> None:
    """To a file with the very bytes that belong there, where there are any."""
    other = path.parent.parent.parent / f"{path.name}.kept"
    other.write_bytes(path.read_bytes() if path.exists() else b"")
    path.unlink(missing_ok=True)
    path.symlink_to(other)


def instead(make: Make) -> Make:
    def made(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return made


KINDS = {
    "pipe": instead(os.mkfifo),
    "socket": instead(bind),
    "link": link,
    "directory": instead(Path.mkdir),
    "endless": instead(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [MANIFEST, "plans/decode.json", "weights/all.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_refused_unread(
    copy: Path, kind: str, name: str, verify: bool
) -> None:
    KINDS[kind](copy / name)
    with pytest.raises(ArtifactError):
        glmc_runtime.load(copy, verify_hashes=verify)


@pytest.mark.parametrize("name", ["beside", "plans/beside", "weights/beside"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "link", "endless"])
def test_so_it_is_beside_the_listed_files(copy: Path, kind: str, name: str) -> None:
    KINDS[kind](copy / name)
    words = "link" if kind == "endless" else kind
    with pytest.raises(ArtifactError, match=f"the artifact holds a {words}"):
        load_artifact(copy, verify_hashes=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device(copy: Path) -> None:
    try:
        os.mknod(copy / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no devices here")
    with pytest.raises(ArtifactError, match="holds a device"):
        load_artifact(copy)


def test_a_folder_that_is_a_link(copy: Path, tmp_path: Path) -> None:
    (copy / "plans").rename(tmp_path / "plans")
    (copy / "plans").symlink_to(tmp_path / "plans")
    with pytest.raises(ArtifactError, match="holds a link"):
        load_artifact(copy)


def test_the_artifact_itself_may_be_named_by_a_link(toy_path: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(toy_path)
    assert load_artifact(tmp_path / "latest").manifest == load_artifact(toy_path).manifest


def test_a_manifest_without_end_is_not_read(copy: Path) -> None:
    with (copy / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    with pytest.raises(ArtifactError, match="larger than any of its kind"):
        load_artifact(copy)


def test_nor_is_a_plan_that_is_listed_with_its_size(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(artifact_files._LARGEST, "plans", 1000)
    with pytest.raises(ArtifactError, match="larger than any of its kind") as caught:
        load_artifact(copy)
    assert caught.value.expected == "at most 1000 bytes"


def test_every_kind_has_a_bound() -> None:
    names = (MANIFEST, "plans/decode.json", "tokenizer/tokenizer.json", "report.json")
    assert all(1 << 20 < largest_size(name) < 1 << 30 for name in names)


def entry_of(path: Path) -> FileEntry:
    return FileEntry(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


@pytest.mark.parametrize("change", [b"more", b""], ids=["grows", "shrinks"])
def test_a_file_that_changes_its_size_while_it_is_read(
    tmp_path: Path, change: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"x" * 1000)
    files = ArtifactFiles(tmp_path, {path.name: entry_of(path)})
    real = os.read

    def read(descriptor: int, count: int) -> bytes:
        piece = real(descriptor, min(count, 10))
        if change:
            with path.open("ab") as file:
                file.write(change)
        else:
            os.truncate(path, 5)
        return piece

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(ArtifactError, match="changed while the artifact was loaded"):
        files.read(path.name)


def swap_when_all_was_read(copy: Path, name: str, text: bytes) -> Callable[[int, int], None]:
    def swap(done: int, total: int) -> None:
        if done == total:
            (copy / "other").write_bytes(text)
            (copy / "other").replace(copy / name)

    return swap


def test_a_plan_is_parsed_from_the_bytes_that_were_hashed(copy: Path) -> None:
    before = load_artifact(copy).plans
    swap = swap_when_all_was_read(copy, "plans/decode.json", b"{}")
    assert load_artifact(copy, progress=swap).plans == before
    assert (copy / "plans" / "decode.json").read_bytes() == b"{}"


def listed(root: Path, name: str, data: bytes) -> None:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    manifest: dict[str, Any] = json.loads((root / MANIFEST).read_text())
    manifest["files"][name] = vars(entry_of(path))
    (root / MANIFEST).write_text(json.dumps(manifest))


def test_the_bytes_that_were_hashed_are_handed_out_later(copy: Path) -> None:
    name = "tokenizer/chat_template.jinja"
    listed(copy, name, b"first")
    files = load_artifact(copy).files
    (copy / name).write_bytes(b"other")
    assert dict(files.below("tokenizer")) == {"chat_template.jinja": b"first"}
    assert files.read(name) == files.take(name) == b"first"
    with pytest.raises(ArtifactError, match="sha256 differs"):
        files.read(name, compare=True)
    assert name in files and "tokenizer/tokenizer.json" not in files
    assert list(files.below("tokenizer")) == ["chat_template.jinja"]
    with pytest.raises(KeyError):
        files.below("tokenizer")["tokenizer.json"]


@pytest.mark.parametrize(
    ("change", "holds", "may_hold"),
    [
        (lambda path: path.read_bytes(), True, False),
        (lambda path: path.chmod(0o600), False, True),
        (lambda path: os.link(path, path.with_name("second")), False, True),
        (lambda path: path.write_bytes(b"B" * 100), False, False),
        (lambda path: os.truncate(path, 5), False, False),
        (lambda path: os.truncate(path, 500), False, False),
        (lambda path: path.touch(), False, False),
    ],
    ids=["read", "mode", "a second name", "bytes", "shorter", "longer", "time"],
)
def test_states(tmp_path: Path, change: Make, holds: bool, may_hold: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * 100)
    past = path.stat().st_mtime_ns - 10**9
    os.utime(path, ns=(past, past))
    with path.open("rb") as file:
        before = FileState.of(os.fstat(file.fileno()))
        change(path)
        after = FileState.of(os.fstat(file.fileno()))
    assert (before.holds(after), before.may_hold(after)) == (holds, may_hold)


@pytest.mark.parametrize(("size", "wanted"), [(100, ValueError), (5, ArtifactError)])
def test_what_fails_because_a_file_changed_is_said_to_be_that(
    tmp_path: Path, size: int, wanted: type[Exception]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * 100)
    files = ArtifactFiles(tmp_path, {"file": FileEntry("", 100)})
    with pytest.raises(wanted, match=r"no tensor|changed while"), files.hashed_file("file"):
        if size != 100:
            os.truncate(path, size)
        raise ValueError("no tensor is read from this")


def test_a_time_that_was_put_back_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * 100)
    found = path.stat()
    path.write_bytes(b"B" * 100)
    changed = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = FileState.of(path.stat())
    assert after.modified == found.st_mtime_ns
    if changed.st_ctime_ns > found.st_ctime_ns:  # else within one tick of the system's clock
        assert not FileState.of(found).holds(after)
