"""Read an artifact for looking at it: manifest, plans, report and times, no weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc.artifact import report_form
from glmc.artifact.times import Times, read_times, with_times
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import MANIFEST, ArtifactFiles, read_manifest
from glmc_runtime.format.collectives import (
    COLLECTIVES,
    AlgorithmTable,
    default_table,
    tree_only,
)
from glmc_runtime.format.collectives_json import read_table
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.manifest import Manifest, manifest_from_json
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.loading.loader import Artifact, load_artifact


@dataclass(frozen=True)
class ArtifactContents:
    """``report`` is what the compiler wrote about its passes, with the seconds that ``times`` has
    of them, None where they were not recorded; empty when it wrote none. ``collectives`` is the
    table by which the ranks add up, None for one rank."""

    path: Path
    manifest: Manifest
    plans: Mapping[PhaseKey, PhasePlan]
    report: Mapping[str, Any]
    times: Times | None
    collectives: AlgorithmTable | None = None


def read_artifact(path: Path, *, verify_hashes: bool = False) -> ArtifactContents:
    """Read and check an artifact as the runtime does, by default without reading the weights.

    The report is read by no other check, so its hash is compared always.

    Raises :class:`ArtifactError` or :class:`PlanError`.
    """
    artifact = load_artifact(path, verify_hashes=verify_hashes)
    report = json_document(artifact.files, report_form.NAME) or {}
    report_form.require_report(report)
    times = read_times(artifact.path)
    told = with_times(report, times)
    table = _table(artifact) if artifact.manifest.ranks.count > 1 else None
    return ArtifactContents(artifact.path, artifact.manifest, artifact.plans, told, times, table)


def _table(artifact: Artifact) -> AlgorithmTable:
    """As a rank takes it."""
    manifest = artifact.manifest
    if COLLECTIVES in artifact.files:
        table = read_table(artifact.files.read(COLLECTIVES, compare=True))
    else:
        table = default_table(manifest.guards.target, manifest.ranks.count)
    return table if manifest.deterministic is None else tree_only(table)


def manifest_of(path: Path) -> Manifest:
    """The manifest alone, of an artifact that was just written."""
    return manifest_from_json(json_of(read_manifest(path), MANIFEST, str(path / MANIFEST)))


def json_document(files: ArtifactFiles, name: str) -> dict[str, Any] | None:
    """A JSON file that only the compiler reads; None where the artifact has none.

    Raises :class:`ArtifactError` when it was changed or is no JSON object.
    """
    if name not in files:
        return None
    data = json_of(files.read(name, compare=True), name, str(files.root / name))
    if not isinstance(data, dict):
        raise ArtifactError(f"{name} is no JSON object", place=str(files.root))
    return data
