"""A record by its path; what each kind holds is in the tests of the kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glmc.check.align.readers.open import open_record
from glmc_runtime.errors import RecordError


def test_what_is_no_record_says_what_would_be_one(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.h5")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("run.json", "nowhere.h5", "pipe.h5", "pipe.csv", "x" * 5000, "run.json/x"):
        with pytest.raises(RecordError, match="no record of tensors") as caught:
            open_record(tmp_path / name)
        assert "HDF5" in caught.value.expected and caught.value.found
