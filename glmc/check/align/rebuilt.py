"""The program of an artifact, made again from what it was compiled from.

An artifact has calls and no program. What it was compiled from says how to compile once more; where
that gives the same plans, their programs say what each call must compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

from glmc.artifact.inputs import NAME, InputFile, Inputs, inputs_from_json, inputs_of_model
from glmc.artifact.reader import json_document
from glmc.check.calls.as_lowered import LoweredProgram, with_all_values
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.errors import InternalError, UsageError
from glmc.ir.program import Program
from glmc.job import Job, read_job
from glmc.pipeline.events import Event, StepDone
from glmc.weights.engine import HandedOver
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.values import Values
from glmc_runtime.loading.loader import Artifact, load_artifact

CAPTURE = "capture"
"""The stage of a compile whose program no pass has touched."""
UNKNOWN = "the own error of its calls is not known: "
LARGEST_KEPT = 1 << 30
"""Bytes of weights up to which they are all kept in memory, as programs have them."""


@dataclass(frozen=True)
class Rebuilt:
    """An artifact with the programs that its plans were made of, and the weights to run them on."""

    artifact: Artifact
    compiled: Compiled
    phases: Mapping[PhaseKey, LoweredProgram]
    weights: ModelWeights
    captured: Program

    @property
    def values(self) -> Values:
        """The values of all phases."""
        return Values({key.phase: each.lowered.values for key, each in self.phases.items()})


def rebuild(path: Path, model: str | Path) -> Rebuilt:
    """Compile ``model`` as the artifact was compiled. Raises UsageError with the reason where the
    plans come out otherwise: then nobody knows what its calls must compute."""
    artifact = load_artifact(path, verify_hashes=False)
    recorded = inputs_of(artifact)
    options = options_of(artifact, recorded)
    changed = [*differing(recorded.files, inputs_of_model(model, options).inputs.files)]
    if changed:
        raise unknown(
            artifact,
            f"{', '.join(changed)} of {model} is not what it was compiled from",
            "--checkpoint DIR, with what it was compiled from, or compile it again",
        )
    job = read_job(model, options)
    captured = CapturedProgram()
    front = front_end(job, captured)
    compiled = back_end(front, job)
    for key, plan in artifact.plans.items():
        if compiled.phases[key].plan != plan:
            raise unknown(
                artifact,
                f"compiled again from {model}, the plan of {key} is another",
                "--checkpoint DIR, with what it was compiled from, or compile it with this glmc",
            )
    phases = with_all_values(front, compiled)
    return Rebuilt(artifact, compiled, phases, weights_of(job, artifact), captured.program())


class CapturedProgram:
    """Hears a compile and keeps the program before its passes."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == CAPTURE:
            self._program = event.program.copy()

    def program(self) -> Program:
        if self._program is None:
            raise InternalError("a compile has captured nothing")
        return self._program


def inputs_of(artifact: Artifact) -> Inputs:
    """What the artifact was compiled from. Raises UsageError where it does not say."""
    data = json_document(artifact.files, NAME)
    if data is None:
        raise unknown(artifact, f"it has no {NAME}", "compile the model with this glmc")
    return inputs_from_json(data, str(artifact.path / NAME))


def options_of(artifact: Artifact, recorded: Inputs) -> CompileOptions:
    """The options of its compile, in the dtype that was chosen. Raises UsageError where only code
    or files of others could compile it again."""
    if recorded.pipeline or recorded.extensions:
        raise unknown(
            artifact,
            "it was compiled with a --pipeline file, or with passes or a target of others",
            "compile it without them",
        )
    names = {field.name for field in fields(CompileOptions)}
    options = {name: value for name, value in recorded.options.items() if name in names}
    return CompileOptions(
        **{**options, "dtype": artifact.manifest.dtype, "calibration_prompt": None}
    )


def differing(files: Mapping[str, InputFile], others: Mapping[str, InputFile]) -> Iterator[str]:
    """The config and the files of weights that are not the same."""
    for name in sorted({*files, *others}):
        counts = name == "config.json" or name.endswith(".safetensors")
        if counts and files.get(name) != others.get(name):
            yield name


def weights_of(job: Job, artifact: Artifact) -> ModelWeights:
    """The parameters of the model itself, not those that were packed. Raises UsageError."""
    source = job.weights
    if source is None or isinstance(source, HandedOver):
        raise unknown(artifact, "it has no weights of its own", "compile it with weights")
    entries = artifact.manifest.weights.values()
    size = sum(prod(each.shape) * dtype_of(each.dtype).itemsize for each in entries)
    return ModelWeights(source, keep=size <= LARGEST_KEPT)


def unknown(artifact: Artifact, reason: str, remedy: str) -> UsageError:
    """That own error can't be told."""
    return UsageError(
        f"{UNKNOWN}{reason}",
        place=str(artifact.path),
        remedy=remedy,
    )
