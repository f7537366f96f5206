"""Read an artifact for looking at it: manifest, plans and report, no weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc_runtime.errors import ArtifactError
from glmc_runtime.loader import load_artifact
from glmc_runtime.manifest import Manifest
from glmc_runtime.plan import PhasePlan


@dataclass(frozen=True)
class ArtifactContents:
    """``report`` is what the compiler wrote about its passes; empty when it wrote none."""

    path: Path
    manifest: Manifest
    plans: Mapping[str, PhasePlan]
    report: Mapping[str, Any]


def read_artifact(path: Path, *, verify_hashes: bool = False) -> ArtifactContents:
    """Read and check an artifact as the runtime does, by default without reading the weights.

    Raises :class:`ArtifactError` or :class:`PlanError`.
    """
    artifact = load_artifact(path, verify_hashes=verify_hashes)
    report: Any = {}
    if "report.json" in artifact.manifest.files:
        try:
            report = json.loads((artifact.path / "report.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArtifactError(
                f"report.json is not valid JSON: {error}",
                place=str(artifact.path),
                remedy="copy the artifact again",
            ) from error
    if not isinstance(report, dict):
        raise ArtifactError("report.json is no JSON object", place=str(artifact.path))
    return ArtifactContents(artifact.path, artifact.manifest, artifact.plans, report)
