"""The two sides of an alignment: records that are there, and those that are made on the spot."""

from __future__ import annotations

from pathlib import Path

from glmc.check.align.readers.open import open_record
from glmc.check.align.reference import record_checkpoint
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.record.artifact import record_values
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import values_of
from glmc_runtime.record.tensors import Record


def side_of(text: str) -> Record:
    """The record that an argument names. Raises what reading it raises."""
    return open_record(Path(text))


class Named:
    """A record by the name of what it was made of, and not of the file that has it."""

    def __init__(self, label: str, record: Record) -> None:
        self.label, self.facts = label, record.facts
        self.tensors = record.tensors


def side_of_checkpoint(
    folder: Path, file: Path, wanted: RecordOptions, keep: Keep, dtype: str | None, device: str
) -> Record:
    """Record the model of a checkpoint into ``file``. Raises as :func:`record_checkpoint`."""
    with H5File(file, keep) as sink:
        record_checkpoint(folder, sink, wanted, dtype=dtype, device=device)
    return Named(str(folder), open_record(file))


def side_of_artifact(
    artifact: Artifact, file: Path, wanted: RecordOptions, keep: Keep, run: ArtifactRun
) -> Record:
    """Record an artifact into ``file``. Raises as :func:`record_values`."""
    with H5File(file, keep) as sink:
        record_values(artifact, values_of(artifact), sink, wanted, run)
    return Named(str(artifact.path), open_record(file))
