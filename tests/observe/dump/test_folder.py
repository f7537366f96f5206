from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import PackError
from glmc.observe.dump.folder import MARKER, check_folder, clean_folder, write_file


def test_a_fresh_or_empty_folder_is_taken_and_marked(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        check_folder(folder)
        clean_folder(folder)
        assert write_file(folder, "000_capture.txt", "x\n").read_text() == "x\n"
        assert (folder / MARKER).is_file()


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "000_capture.txt").write_text("mine")
    for refusing in (check_folder, clean_folder):
        with pytest.raises(PackError, match="taken"):
            refusing(tmp_path)
    assert (tmp_path / "000_capture.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dump"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PackError):
        check_folder(path)


def test_cleaning_takes_files_of_a_dump_and_nothing_else(tmp_path: Path) -> None:
    for name in ("000_capture.txt", "003_fuse_rope.layer_1.onnx", "times.json"):
        write_file(tmp_path, name, "old")
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "004_folder").mkdir()
    clean_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "notes.md", "004_folder"}


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    folder = tmp_path / "dump"
    write_file(folder, "000_capture.txt", "")
    (folder / "001_link.txt").symlink_to(other)
    clean_folder(folder)
    assert other.read_text() == "mine" and not (folder / "001_link.txt").is_symlink()


def test_what_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "000_capture.txt").mkdir()
    with pytest.raises(PackError, match="can't be written") as raised:
        write_file(tmp_path, "000_capture.txt", "x")
    assert "000_capture.txt" in raised.value.place
