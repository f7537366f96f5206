"""Whether an artifact may be written to a path; known before torch is imported."""

from __future__ import annotations

from pathlib import Path

from glmc.artifact.disk import disk_error
from glmc.artifact.replace import is_artifact
from glmc.errors import PackError
from glmc_runtime.format.artifact_files import is_unfinished


def check_destination(path: Path, force: bool) -> None:
    """Raise :class:`PackError` for a path that the writer would refuse."""
    try:
        if is_unfinished(path):
            raise _taken(path, "a name that unfinished artifacts have", "choose another path")
        empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:  # a name too long, a directory that can't be listed
        raise disk_error(error, path, 0) from error
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        obstacle, remedy = "a file or a link", "choose another path"
    elif empty:
        return
    elif not is_artifact(path):
        obstacle, remedy = "a directory that is no glmc artifact", "choose another path"
    elif not force:
        obstacle, remedy = "an artifact", "choose another path, or pass --force to replace it"
    else:
        return
    raise _taken(path, obstacle, remedy)


def _taken(path: Path, found: str, remedy: str) -> PackError:
    return PackError(
        "the output path is taken",
        place=str(path),
        expected="a path where nothing is yet",
        found=found,
        remedy=remedy,
    )
