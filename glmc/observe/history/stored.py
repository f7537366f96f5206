"""Read the history of a compile from the artifact that keeps it."""

from __future__ import annotations

from pathlib import Path

from glmc.artifact.reader import json_document
from glmc.observe.history.encode import NAME, history_from_json
from glmc.observe.history.record import History
from glmc_runtime.errors import ArtifactError
from glmc_runtime.loading.loader import load_artifact


def read_history(path: Path) -> History:
    """The history that an artifact keeps of its compile.

    Raises :class:`ArtifactError`, also for an artifact that was written without one.
    """
    artifact = load_artifact(path, verify_hashes=False)
    data = json_document(artifact, NAME)
    if data is None:
        raise ArtifactError(
            f"the artifact has no {NAME}",
            place=str(artifact.path),
            expected="an artifact that glmc compile wrote",
            remedy="compile the model again",
        )
    return history_from_json(data)
