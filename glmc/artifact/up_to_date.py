"""Whether an artifact is what a compile would make now; nothing is imported that computes."""

from __future__ import annotations

from pathlib import Path

from glmc.artifact.inputs import (
    HASHED_BYTES,
    NAME,
    changes,
    inputs_from_json,
    read_inputs,
    some_of,
)
from glmc.artifact.times import read_times
from glmc.config import CompileOptions
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.artifact_files import MANIFEST, changed, read_manifest, sha256_of
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.loading.loader import listed_files


def reason_to_compile(
    path: Path, directory: Path | None, name: str, options: CompileOptions
) -> str | None:
    """Why ``path`` has to be compiled of the checkpoint in ``directory``, or of the preset
    ``name``, in words; None where it is up to date.

    Names and sizes of its files are compared, and the hashes of those that are no larger than what
    is hashed of a checkpoint: a larger one with other bytes is found when it is loaded.
    """
    if not path.exists():
        return "there is no artifact yet"
    try:
        manifest, files = listed_files(path)
        if NAME not in files:
            return f"it has no {NAME}"
        data = json_of(files.read(NAME, compare=True), NAME, str(path / NAME))
        before, times = inputs_from_json(data, str(path)), read_times(path)
        now = read_inputs(directory, name, options)
        differing = changes(before, {} if times is None else times.modified, now)
        if not differing:
            _require_hashes(path, manifest)
    except GlmcError as error:
        return error.message
    if before.extensions or now.inputs.extensions:
        return "changes of another distribution's pass or target are not noticed"
    return f"changed since: {some_of(differing)}" if differing else None


def model_of(path: Path) -> str | None:
    """The name of the model that an artifact is of, whatever the version of its manifest; None
    where that can't be told."""
    try:
        name = json_of(read_manifest(path), MANIFEST, str(path / MANIFEST))["model"]["name"]
    except (GlmcError, LookupError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _require_hashes(path: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if entry.size <= HASHED_BYTES and sha256_of(path / name) != entry.sha256:
            raise changed(name, entry.sha256)
