"""Tests of capture itself trace as a compile does."""

from __future__ import annotations

import pytest
from torch.export import ExportedProgram

from tests.support.checked_functional import TRACE


@pytest.fixture(autouse=True)
def _torchs_own_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExportedProgram, "run_decompositions", TRACE)
