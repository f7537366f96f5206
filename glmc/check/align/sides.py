"""The two sides of an alignment: records that are there, or made on the spot."""

from __future__ import annotations

from pathlib import Path

from glmc.check.align.readers.open import open_record
from glmc_runtime.record.tensors import Record


def side_of(text: str) -> Record:
    """The record that an argument names. Raises what reading it raises."""
    return open_record(Path(text))
