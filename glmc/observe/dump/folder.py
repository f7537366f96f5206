"""The folder of a dump: only a folder that carries our marker is ever emptied."""

from __future__ import annotations

import re
from pathlib import Path

from glmc.errors import PackError

MARKER = ".glmc-dump"
TIMES = "times.json"
VERDICTS = "verdicts.json"
_OURS = re.compile(
    r"\d{3}_[\w.]+\.(txt|py|json|onnx|dot|svg)|(history|inputs|times|verdicts)\.json|index\.html"
)
_TEXT = "Files of this folder are written, and removed, by glmc compile --dump.\n"


def check_folder(path: Path) -> None:
    """Raise PackError for a path that is neither free, nor empty, nor a dump of ours."""
    if path.is_dir() and (not any(path.iterdir()) or (path / MARKER).is_file()):
        return
    if not path.is_dir() and not path.exists() and not path.is_symlink():
        return
    raise PackError(
        "the dump folder is taken",
        place=str(path),
        expected=f"no folder, an empty one, or one with the marker {MARKER}",
        found="a folder with other files" if path.is_dir() else "a file or a broken link",
        remedy="choose another folder for --dump",
    )


def clean_folder(path: Path) -> None:
    """Remove the files of an earlier dump; files that glmc doesn't name so are left alone."""
    check_folder(path)
    if not (path / MARKER).is_file():
        return
    for file in path.iterdir():
        if _OURS.fullmatch(file.name) and (file.is_file() or file.is_symlink()):
            file.unlink()


def write_file(folder: Path, name: str, data: str | bytes) -> Path:
    """Write one file, the folder and its marker first; raises PackError when that fails."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker = folder / MARKER
        if not marker.is_file():
            marker.write_text(_TEXT, encoding="utf-8")
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise PackError(
            f"the dump can't be written: {error.strerror}",
            place=str(path),
            found=str(error),
            remedy="check the path, its permissions and the room on the disk",
        ) from error
    return path
