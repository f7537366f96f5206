"""The form of ``report.json``, in which there are no times (glmc/artifact/times.py).

The report is data for people, so the runtime never reads it; but it comes from elsewhere like the
rest of an artifact, and another release may write another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmc.artifact.records import record
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.phases import DECODE
from glmc_runtime.format.records import misfit

NAME = "report.json"
SCHEMA_VERSION = 2
_MOST_LAYERS = 100_000  # a table goes through them


@dataclass(frozen=True)
class MissForm:
    pass_name: str
    anchor: str
    node: str
    module: str
    layer: int | None
    condition: str
    source: str
    held: int


@dataclass(frozen=True)
class EvaluatedForm:
    kinds: int
    small: int


@dataclass(frozen=True)
class PassForm:
    name: str
    numerics: str
    nodes_before: int
    nodes_after: int
    matches: int
    layers: tuple[int, ...]
    near_misses: tuple[MissForm, ...]
    detail: dict[str, Any]
    verdict: str = ""
    evaluated: EvaluatedForm = EvaluatedForm(0, 0)


@dataclass(frozen=True)
class PhaseForm:
    calls: int
    vendor_calls_by_layer: dict[str, int]
    helper_calls_by_layer: dict[str, int]
    kernels: dict[str, int]
    segments: int
    captured_segments: int
    buffers: int
    arena: str
    arena_bytes: dict[str, int]


@dataclass(frozen=True)
class EagerForm:
    """Empty where the eager model was not counted."""

    by_layer: dict[str, int] | None = None
    total: int = 0


@dataclass(frozen=True)
class ReportForm:
    """``model`` and ``options`` hold more than is read of them."""

    model: dict[str, Any]
    options: dict[str, Any]
    passes: tuple[PassForm, ...]
    expected_matches: dict[str, int]
    phases: dict[str, PhaseForm]
    eager: EagerForm
    remarks: tuple[str, ...]
    dtype_choice: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION


# What is read of the open parts.
_MODEL = {"name": str, "architecture": str, "layers": int, "parameters": int}
_OPTIONS = {"target": str, "dtype": str, "abi_profile": str | None}


def require_report(data: Mapping[str, Any]) -> None:
    """Raise :class:`ArtifactError` for a report of another form; an empty one says nothing."""
    if not data:
        return
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{NAME} has another schema version",
            expected=str(SCHEMA_VERSION),
            found=repr(version),
            remedy="make it anew: glmc compile MODEL --output DIR --force",
        )
    try:
        report = record(data, ReportForm)
    except (KeyError, TypeError, ValueError) as error:
        raise _not_well_formed(repr(error)) from error
    problem = misfit(report, ReportForm, "report") or _unusable(report)
    if problem is not None:
        raise _not_well_formed(problem)


def _unusable(report: ReportForm) -> str | None:
    """Where an open part lacks what is read of it, or a number can't be gone through."""
    for part, needed in (("model", _MODEL), ("options", _OPTIONS)):
        value = getattr(report, part)
        for name, kind in needed.items():
            if name not in value:
                return f"report.{part} lacks {name}"
            if problem := misfit(value[name], kind, f"report.{part}.{name}"):
                return problem
    for number, each in enumerate(report.passes):
        place = f"report.passes[{number}].detail.padded"
        if problem := misfit(each.detail.get("padded", {}), dict[str, str], place):
            return problem
    if DECODE.name not in report.phases:
        return f"report.phases lacks {DECODE.name}"
    if not all(phase.arena_bytes for phase in report.phases.values()):
        return "a phase has no bucket"
    layers = report.model["layers"]
    return None if 0 <= layers <= _MOST_LAYERS else f"report.model.layers is {layers}"


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(f"{NAME} is not well formed: {problem}", remedy="compile the model again")
