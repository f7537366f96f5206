"""What a compile left behind: its history in the artifact, and the model's lines that it names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import linecache
import re
from collections.abc import Mapping
from pathlib import Path

from glmc.artifact.reader import json_document
from glmc.artifact.times import read_times
from glmc.observe.history.encode import NAME, history_from_json
from glmc.observe.history.record import History
from glmc.observe.history.times import with_times
from glmc_runtime.errors import ArtifactError
from glmc_runtime.loading.loader import listed_files

_SOURCE = re.compile(r"^(?P<file>modeling_(?P<model>\w+)\.py):(?P<line>\d+)\b")


def read_history(path: Path) -> History:
    """The history that an artifact keeps of its compile, with the times that it has of it.

    Raises :class:`ArtifactError`, also for an artifact that was written without one.
    """
    _, files = listed_files(path)
    data = json_document(files, NAME)
    if data is None:
        raise ArtifactError(
            f"the artifact has no {NAME}",
            place=str(path),
            expected="an artifact that glmc compile wrote",
            remedy="compile the model again",
        )
    return with_times(history_from_json(data), read_times(path))


def source_text(source: str, versions: Mapping[str, str]) -> str:
    """The line that ``modeling_glm4_moe.py:305 forward`` names; '' where it can't be known.

    Only files of the transformers that was compiled with are looked into: in another version the
    line is another one.
    """
    match = _SOURCE.match(source)
    spec = importlib.util.find_spec("transformers") if match is not None else None
    if match is None or spec is None or spec.origin is None:
        return ""
    if importlib.metadata.version("transformers") != versions.get("transformers"):
        return ""
    path = Path(spec.origin).parent / "models" / match["model"] / match["file"]
    return linecache.getline(str(path), int(match["line"])).strip()
