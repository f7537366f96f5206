"""The calls of an artifact beside a reference that was recorded: their own errors, and a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmc.check.align.op_test import op_test
from glmc.check.align.own import own_errors
from glmc.check.align.rebuilt import Rebuilt, rebuild, unknown
from glmc.check.align.recorded import RecordedModel
from glmc.check.align.result import AlignedValue, Alignment
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.recipes import RECIPES
from glmc_runtime.loading.from_checkpoint import recipes_of
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.record.tensors import Record


@dataclass(frozen=True)
class CallsBeside:
    """An artifact with its programs, and what is expected of it."""

    rebuilt: Rebuilt
    reference: RecordedModel
    load: LoadOptions

    def own_errors(self) -> Alignment:
        """Raises as :func:`~glmc.check.align.own.own_errors`."""
        return own_errors(self.rebuilt, self.reference.sequences(), self.reference, self.load)

    def test(self, row: AlignedValue) -> str:
        """The text of a test. Raises as :func:`~glmc.check.align.op_test.op_test`."""
        sequences = self.reference.sequences()
        return op_test(self.rebuilt, sequences, row, self.reference, self.load)


def calls_beside(
    reference: Record, artifact: Artifact, load: LoadOptions, checkpoint: Path | None
) -> CallsBeside:
    """The calls of an artifact beside a record. ``checkpoint`` may be what it was compiled from;
    an artifact whose weights are in a checkpoint says itself where that is.

    Raises UsageError with the reason where own error can't be told.
    """
    expected = RecordedModel(reference)
    expected.sequences()
    dtype, other = artifact.manifest.dtype, reference.facts.get("dtype")
    if other != dtype:  # what a rounding of the reference does would be laid at the calls' door
        raise unknown(
            artifact,
            f"its calls are in {dtype}, and the reference is {_in(other)}",
            f"record the reference with --dtype {dtype}",
        )
    if load.checkpoint is not None:
        checkpoint = Path(load.checkpoint)
    elif RECIPES in artifact.files:
        checkpoint = Path(recipes_of(artifact).checkpoint)
    if checkpoint is None:
        raise unknown(
            artifact,
            "nothing says where the checkpoint is that it was compiled from",
            "--checkpoint DIR",
        )
    return CallsBeside(rebuild(artifact.path, checkpoint), expected, load)


def _in(dtype: object) -> str:
    return f"in {dtype}" if dtype else "in nobody knows what"
