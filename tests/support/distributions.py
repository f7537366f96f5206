"""Distributions of all kinds, sound ones and others, as folders on the path, without pip.

That an installer makes the same of a ``pyproject.toml`` is shown by the tests of the pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
    version: str = "0.1.0",
) -> Path:
    """Put a distribution into ``folder``, which belongs on the path; returns the folder.

    ``entry_points`` maps groups to names and values, ``modules`` file names to sources.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for file, source in (modules or {}).items():
        (folder / file).write_text(source)
    return folder
