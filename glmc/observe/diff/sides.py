"""One side of a comparison, and how it is read from an artifact, a dump or a history file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmc.artifact import inputs as inputs_file
from glmc.artifact.inputs import Inputs, inputs_from_json
from glmc.artifact.reader import json_document
from glmc.errors import UsageError
from glmc.observe.diff.record import SideFacts
from glmc.observe.dump.folder import MARKER, VERDICTS
from glmc.observe.history import encode
from glmc.observe.history.encode import history_from_json
from glmc.observe.history.record import History
from glmc.observe.history.stored import read_history
from glmc.observe.history.verdicts import with_verdicts
from glmc.plain_file import read_plain
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import MANIFEST
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.manifest import FileEntry
from glmc_runtime.loading.loader import listed_files

WEIGHTS, TEXT = "weights/", "tokenizer/"


@dataclass(frozen=True)
class Side:
    """``inputs`` is None where it was not recorded. ``packed`` has the hashes of an artifact's
    files of weights and of text, None where there is no artifact; ``remarks`` are said of this
    side."""

    facts: SideFacts
    history: History
    inputs: Inputs | None
    packed: Mapping[str, FileEntry] | None = None
    remarks: tuple[str, ...] = ()


def side_of(label: str, kind: str, history: History, inputs: Inputs | None) -> Side:
    return Side(SideFacts(label, kind, history.model, history.target), history, inputs)


def read_side(path: Path) -> Side | None:
    """What is at a path, or None for a path that is neither artifact, nor dump, nor history.

    Raises :class:`ArtifactError` for files that can't be used, :class:`UsageError` for a dump of
    single steps, which has no history.
    """
    if (path / MANIFEST).is_file():
        manifest, files = listed_files(path)
        data = json_document(files, inputs_file.NAME)
        inputs = None if data is None else inputs_from_json(data, str(path))
        packed = {
            name: entry
            for name, entry in manifest.files.items()
            if name.startswith((WEIGHTS, TEXT))
        }
        side = side_of(str(path), "artifact", read_history(path), inputs)
        return replace(side, packed=packed)
    if (path / MARKER).is_file():
        return _dump(path)
    if path.suffix == ".json" and path.is_file():
        return _files(path.parent, path, "history")
    return None


def _dump(path: Path) -> Side:
    file = path / encode.NAME
    if not file.is_file():
        raise UsageError(
            "a dump of single steps, or of a compile that failed, can't be compared",
            place=str(path),
            expected=f"a dump with {encode.NAME}",
            remedy="dump without --dump-before and --dump-after: glmc compile MODEL --dump DIR",
        )
    side, verdicts = _files(path, file, "dump"), {}
    if (path / VERDICTS).is_file():
        verdicts = _json(path / VERDICTS)
    return replace(side, history=with_verdicts(side.history, verdicts))


def _files(folder: Path, file: Path, kind: str) -> Side:
    history, inputs = history_from_json(_json(file)), folder / inputs_file.NAME
    read = inputs_from_json(_json(inputs), str(inputs)) if inputs.is_file() else None
    return side_of(str(folder if kind == "dump" else file), kind, history, read)


def _json(path: Path) -> Any:
    try:
        data = json_of(read_plain(path), path.name, str(path))
    except OSError as error:
        raise ArtifactError(
            f"{path.name} can't be read: {error.strerror or error}", place=str(path)
        ) from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path.name} is no JSON object", place=str(path))
    return data
