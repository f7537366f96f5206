"""Swapping directories: in one step where the system can, restored on failure where it can't."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from glmc.artifact import replace
from glmc.artifact.partial import partial_directory
from glmc.artifact.replace import is_artifact, put_in_place


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(text)
    return path


def test_is_artifact(tmp_path: Path) -> None:
    assert not is_artifact(tmp_path)
    assert not is_artifact(tmp_path / "absent")
    assert not is_artifact(folder(tmp_path / "a", "{"))
    assert not is_artifact(folder(tmp_path / "b", "[]"))
    assert not is_artifact(folder(tmp_path / "c", '{"format": "other"}'))
    assert is_artifact(folder(tmp_path / "d", '{"format": "glmc-artifact", "schema_version": 99}'))


def test_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    text = '{"format": "glmc-artifact"}'
    for name, make in (
        ("pipe", os.mkfifo),
        ("zero", lambda path: path.symlink_to("/dev/zero")),
        ("link", lambda path: path.symlink_to(tmp_path / "text")),
        ("folder", Path.mkdir),
        ("deep", lambda path: path.write_text("[" * 100_000)),
        ("endless", lambda path: (path.touch(), os.truncate(path, 1 << 40))),
    ):
        (tmp_path / "text").write_text(text)
        (tmp_path / name).mkdir()
        make(tmp_path / name / "manifest.json")
        assert not is_artifact(tmp_path / name), name


@pytest.mark.parametrize("exchange", [True, False])
def test_replaces(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(replace, "_exchange", lambda first, second: False)
    new, old = folder(tmp_path / "new", "new"), folder(tmp_path / "old", "old")
    put_in_place(new, old)
    assert (old / "manifest.json").read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["old"]


def test_the_old_one_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = folder(tmp_path / "new", "new"), folder(tmp_path / "old", "old")
    monkeypatch.setattr(replace, "_exchange", lambda first, second: False)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if source == new:
            raise PermissionError("no")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(PermissionError):
        put_in_place(new, old)
    assert (old / "manifest.json").read_text() == "old"


def test_a_signal_does_not_come_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = folder(tmp_path / "new", "new"), folder(tmp_path / "old", "old")
    monkeypatch.setattr(replace, "_exchange", lambda first, second: False)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(new, old)
    assert (old / "manifest.json").read_text() == "new"


def test_an_artifact_that_such_a_crash_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = folder(tmp_path / "new", "new"), folder(tmp_path / "old", "old")
    left = folder(tmp_path / ".old.replaced-1", "older")
    with pytest.warns(UserWarning, match=r"\.old\.replaced-1 is an artifact that a compile was"):
        put_in_place(new, old)
    assert left.is_dir()


def test_a_crash_between_the_renames_does_not_cost_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the crash leaves is not taken for a left-over of a write by the next one."""
    old = folder(tmp_path / "toy", "old")
    monkeypatch.setattr(replace, "_exchange", lambda first, second: False)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if target == old:
            raise SystemExit
        real(source, target)

    with pytest.raises(SystemExit), partial_directory(old) as partial:
        (partial / "manifest.json").write_text("new")
        monkeypatch.setattr(os, "rename", rename)
        put_in_place(partial, old)
    with partial_directory(old):
        pass
    assert [item.read_text() for item in tmp_path.rglob("manifest.json")] == ["old"]


def test_left_over_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    left = tmp_path / ".toy.partial-old"
    left.mkdir()
    other = tmp_path / ".toys.partial-old"
    other.mkdir()
    with partial_directory(tmp_path / "toy") as first:
        assert not left.exists()
        with partial_directory(tmp_path / "toy") as second:
            assert first.exists()
            assert second != first
    assert [item.name for item in tmp_path.iterdir()] == [other.name]
