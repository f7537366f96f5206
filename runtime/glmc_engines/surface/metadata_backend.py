"""A build backend that builds nothing: it tells the metadata of a source distribution.

pip asks the backend of a source distribution for its metadata before it hands the archive over,
and the usual one runs ``setup.py`` then. A copy of this file answers in its place from
``PKG-INFO``, so that nothing of a release is run. It imports the standard library alone.
"""

from __future__ import annotations

from email.parser import HeaderParser
from pathlib import Path
from typing import Any


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Nothing is needed, since nothing is built."""
    return []


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    """Write the metadata that the archive came with; the name of the folder they are in."""
    text = Path("PKG-INFO").read_text(encoding="utf-8")
    headers = HeaderParser().parsestr(text)
    name = str(headers["Name"]).replace("-", "_")
    folder = Path(metadata_directory) / f"{name}-{headers['Version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(text, encoding="utf-8")
    return folder.name


def build_wheel(wheel_directory: str, *_: Any) -> str:
    """Refused: whoever gets here wants more than the archive."""
    raise NotImplementedError("this backend only tells metadata")
